"""Shared parts of the tests of a running server: the process, its models, and clients."""
