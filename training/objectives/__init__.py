"""Training objectives: one function each, one signature."""
