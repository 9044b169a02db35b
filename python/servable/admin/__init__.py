"""Administration: an API over HTTP on a port of its own, and the Open Inference Protocol's repository."""

from servable.admin.api import AdminApi
from servable.admin.http import AdminServer
from servable.admin.repository import ModelRepository

__all__ = ["AdminApi", "AdminServer", "ModelRepository"]
