"""Videos to a report: scores any folder of videos, generated here or elsewhere."""
