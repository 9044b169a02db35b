"""The commands other than serving. Each module has a `run`, which takes its arguments and returns the exit status."""
