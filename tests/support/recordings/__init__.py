"""Replays recordings of TensorFlow Serving: `python -m support.recordings`."""
