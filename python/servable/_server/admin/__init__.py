"""Administration: the API on the administration port, and the Open Inference Protocol's repository."""

from servable._server.admin.answers import respond
from servable._server.admin.api import AdminApi, AdminRequest, ShadowStatistics
from servable._server.admin.repository import ModelRepository

__all__ = ["AdminApi", "AdminRequest", "ModelRepository", "ShadowStatistics", "respond"]
