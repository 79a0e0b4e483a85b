"""One file a command: each turns settings into Ray tasks and collects rows; the home of Ray."""
