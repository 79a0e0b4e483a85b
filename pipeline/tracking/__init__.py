"""MLflow, or nothing: what cannot be tracked now is tracked later, or said aloud, and never stops the work."""
