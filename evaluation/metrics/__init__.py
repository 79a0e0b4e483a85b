"""One file a metric: preprocessing, model and the pure rule that aggregates frames to a score."""
