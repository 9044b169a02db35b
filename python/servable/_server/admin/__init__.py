"""Administration: an API over HTTP on a port of its own, and the Open Inference Protocol's repository."""

from servable._server.admin.api import AdminApi
from servable._server.admin.http import AdminServer
from servable._server.admin.repository import ModelRepository

__all__ = ["AdminApi", "AdminServer", "ModelRepository"]
