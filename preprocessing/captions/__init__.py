"""Captions that a model writes or rewrites, before clips are planned; without a model, captions are what came with the videos."""
