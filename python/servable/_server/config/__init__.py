"""The command line and configuration files, as frozen dataclasses."""
