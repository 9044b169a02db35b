from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from servable._server.client_requests import ClientRequests
from servable._server.config.models import TENSORFLOW_PLATFORM
from servable._server.publisher import ModelPublisher
from servable._server.server_core import CoreOptions, ServerCore
from servable._server.telemetry import ControlPlaneMetrics
from servable.errors import NotFoundError, ServableError, UnavailableError
from support.fake_platform import FakePlatform


class Change:
    """An attempt to unload a model that is not served, on a thread as in the request path."""

    def __init__(self, requests: ClientRequests) -> None:
        self._requests = requests
        self.error: ServableError | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._requests.unload_model("none", lambda: False)
        except ServableError as error:
            self.error = error

    def outcome(self) -> ServableError | None:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.error


@pytest.fixture
def core() -> Iterator[ServerCore]:
    """A core without models."""
    core = ServerCore(
        ModelPublisher(lambda models: None), {TENSORFLOW_PLATFORM: FakePlatform()}, CoreOptions(0)
    )
    core.start(())
    yield core
    core.stop(5)


def test_changes_wait_until_the_core_has_started(core: ServerCore) -> None:
    requests = ClientRequests(ControlPlaneMetrics())
    change = Change(requests)
    change.thread.join(0.05)
    assert change.thread.is_alive()
    requests.begin(core, dict)
    assert isinstance(change.outcome(), NotFoundError)


def test_changes_that_wait_for_a_start_end_with_the_server() -> None:
    requests = ClientRequests(ControlPlaneMetrics())
    change = Change(requests)
    requests.close()
    assert isinstance(change.outcome(), UnavailableError)


def test_metrics_do_not_wait_for_the_core() -> None:
    names = {family.name for family in ClientRequests(ControlPlaneMetrics()).scrape()}
    assert "servable_config_reloads_total" in names
