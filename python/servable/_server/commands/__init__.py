"""The commands beside serving: each module has a `run`, which takes its arguments and returns the exit status."""
