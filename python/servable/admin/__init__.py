"""The administration API: looks at the configuration and changes it, over HTTP on a port of its own."""

from servable.admin.api import AdminApi
from servable.admin.http import AdminServer

__all__ = ["AdminApi", "AdminServer"]
