"""What the tests of a running server share: the process, its models, and clients."""
