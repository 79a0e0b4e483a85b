"""Probing, reading and writing video files; the only home of decord and PyAV."""
