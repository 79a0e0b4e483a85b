"""Rendered raw videos whose truth is known: for the demo, and for tests that need no files."""
