"""Makes the fixture `servable_server` known."""

pytest_plugins = ["servable.testing.pytest_plugin"]
