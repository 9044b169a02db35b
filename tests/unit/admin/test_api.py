from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from servable._server.admin.api import AdminApi, AdminRequest, AppliedError
from servable._server.border.gateway import PublishedModel
from servable._server.config.models import TENSORFLOW_PLATFORM
from servable._server.publisher import ModelPublisher
from servable._server.server_core import CoreOptions, ServerCore
from servable.errors import (
    Code,
    ConfigError,
    FailedPreconditionError,
    InvalidInputError,
    NotFoundError,
    ServableError,
    UnimplementedError,
)
from servable.lifecycle import RetryPolicy
from support.fake_platform import FakePlatform


class Administered:
    """A core that starts empty, and its administration."""

    def __init__(self, directory: Path, max_retries: int = 0) -> None:
        self.directory = directory
        self.published: dict[str, PublishedModel] = {}
        self.core = ServerCore(
            ModelPublisher(self._publish),
            {TENSORFLOW_PLATFORM: FakePlatform()},
            CoreOptions(poll_wait_seconds=0, retry=RetryPolicy(max_retries)),
        )
        self.core.start(())
        self.devices: list[tuple[str, str, int | None]] = []
        self.api = AdminApi(self.core, dict, lambda: self.devices)

    def _publish(self, models: Sequence[PublishedModel]) -> None:
        self.published.update({model.name: model for model in models})

    def base_path(self, name: str, *versions: int) -> str:
        for version in versions:
            path = self.directory / name / str(version)
            path.mkdir(parents=True)
            os.utime(path, (0, 0))
        return str(self.directory / name)

    def call(self, method: str, path: str, document: object = None) -> Any:
        body = b"" if document is None else json.dumps(document).encode()
        return self.api.answer(AdminRequest(method, f"/v1/admin{path}", body))

    def states(self, name: str) -> dict[str, str]:
        return {v["version"]: v["state"] for v in self.call("GET", f"/models/{name}")["versions"]}


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Administered]:
    made = Administered(tmp_path)
    yield made
    assert made.core.stop(10)


def test_devices_are_listed(admin: Administered) -> None:
    assert admin.call("GET", "/devices") == {"devices": []}
    admin.devices = [
        ("/job:localhost/replica:0/task:0/device:CPU:0", "CPU", 268435456),
        ("/job:localhost/replica:0/task:0/device:GPU:1", "GPU", None),
    ]
    assert admin.call("GET", "/devices") == {
        "devices": [
            {"name": "CPU:0", "type": "CPU", "memory_limit_bytes": "268435456"},
            {"name": "GPU:1", "type": "GPU"},
        ]
    }


@pytest.fixture
def three(admin: Administered) -> Administered:
    """Serves all three versions of `m`."""
    admin.call(
        "PUT",
        "/models/m",
        {
            "base_path": admin.base_path("m", 1, 2, 3),
            "model_version_policy": {"specific": {"versions": [1, 2, 3]}},
        },
    )
    assert admin.core.monitor.wait_for(
        lambda: set(admin.states("m").values()) == {"AVAILABLE"} and len(admin.states("m")) == 3, 10
    )
    return admin


def test_a_model_is_added_listed_changed_and_removed(admin: Administered) -> None:
    assert admin.call("GET", "/models") == {"models": []}
    added = admin.call("PUT", "/models/m", {"base_path": admin.base_path("m", 1, 2)})
    assert added["config"]["model_platform"] == "tensorflow"
    assert added["versions"] == [
        {"version": "2", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
    patch = {"servable_options": {"keep_last_version": True}, "version_labels": {"stable": 2}}
    changed = admin.call("PATCH", "/models/m", patch)
    assert changed["config"]["servable_options"] == {"keep_last_version": True}
    assert changed["config"]["version_labels"] == {"stable": "2"}
    changed = admin.call("PATCH", "/models/m", {"version_labels": {"stable": None}})
    assert "version_labels" not in changed["config"]
    assert changed["config"]["servable_options"] == {"keep_last_version": True}
    for policy in ({"all": {}}, {"specific": {"versions": ["2"]}}, {"latest": {"num_versions": 2}}):
        changed = admin.call("PATCH", "/models/m", {"model_version_policy": policy})
        assert changed["config"]["model_version_policy"] == policy
    changed = admin.call("PATCH", "/models/m", {"model_version_policy": None})
    assert "model_version_policy" not in changed["config"]
    assert [model["name"] for model in admin.call("GET", "/models")["models"]] == ["m"]
    assert admin.call("DELETE", "/models/m") == {}
    with pytest.raises(NotFoundError, match="Model m is not configured"):
        admin.call("GET", "/models/m")


def test_labels_splits_and_the_shadow_are_set_and_removed(three: Administered) -> None:
    three.call("PUT", "/models/m/labels/stable", {"version": 1})
    three.call("PUT", "/models/m/labels/stable", {"version": "2"})
    three.call("PUT", "/models/m/split", {"versions": {"1": 9, "7": 1}, "sticky_header": "x-user"})
    three.call("PUT", "/models/m/labels/new/split", {"versions": [{"version": 3, "weight": 1}]})
    described = three.call("PUT", "/models/m/shadow", {"version": 3, "fraction": 0.5})
    assert described["traffic"] == [
        {"label": "", "shares": {"1": 1.0, "7": 0.0}, "unavailable": ["7"]},
        {"label": "new", "shares": {"3": 1.0}, "unavailable": []},
    ]
    model = three.published["m"]
    assert model.labels == {"stable": 2}
    assert [(split.label, split.sticky_header) for split in model.splits] == [
        ("", "x-user"),
        ("new", ""),
    ]
    assert model.shadow is not None
    assert model.shadow.fraction == 0.5
    for path in ("labels/stable", "split", "labels/new/split", "shadow"):
        three.call("DELETE", f"/models/m/{path}")
        with pytest.raises(NotFoundError):
            three.call("DELETE", f"/models/m/{path}")
    model = three.published["m"]
    assert (model.labels, model.splits, model.shadow) == ({}, (), None)


def test_single_versions_are_loaded_and_unloaded(admin: Administered) -> None:
    admin.call("PUT", "/models/m", {"base_path": admin.base_path("m", 1, 2, 3)})
    assert admin.states("m") == {"3": "AVAILABLE"}
    admin.call("PUT", "/models/m/versions/1")
    assert admin.states("m") == {"3": "AVAILABLE", "1": "AVAILABLE"}
    config = admin.call("GET", "/models/m")["config"]
    assert config["model_version_policy"] == {"specific": {"versions": ["1", "3"]}}
    admin.call("DELETE", "/models/m/versions/3")
    assert admin.states("m")["3"] in ("UNLOADING", "END")
    assert admin.states("m")["1"] == "AVAILABLE"
    with pytest.raises(NotFoundError, match="Version 3 of model m is not served"):
        admin.call("DELETE", "/models/m/versions/3")
    admin.call("PUT", "/models/m/labels/stable", {"version": 1})
    with pytest.raises(FailedPreconditionError, match="has the label stable"):
        admin.call("DELETE", "/models/m/versions/1")


def test_a_version_that_cannot_be_loaded_is_reported_and_stays_wanted(admin: Administered) -> None:
    base_path = admin.base_path("m", 1, 2)
    Path(base_path, "1/broken").touch()
    admin.call("PUT", "/models/m", {"base_path": base_path})
    with pytest.raises(AppliedError, match="cannot parse 1") as caught:
        admin.call("PUT", "/models/m/versions/1")
    assert caught.value.code is Code.DATA_LOSS
    with pytest.raises(
        AppliedError, match=r"No version 9 of model m was found in 0.01 s"
    ) as missing:
        admin.call("PUT", "/models/m/versions/9?timeout_seconds=0.01")
    assert missing.value.code is Code.NOT_FOUND
    assert admin.states("m")["2"] == "AVAILABLE"


def test_a_version_that_failed_is_tried_again_when_it_is_asked_for(admin: Administered) -> None:
    base_path = admin.base_path("m", 1, 2)
    broken = Path(base_path, "1/broken")
    broken.touch()
    admin.call("PUT", "/models/m", {"base_path": base_path})
    for _ in range(2):
        with pytest.raises(AppliedError) as caught:
            admin.call("PUT", "/models/m/versions/1")
        assert caught.value.message == (
            "Version 1 of model m could not be loaded: cannot parse 1; it is tried again when its "
            "files change, and when this is asked for again"
        )
    broken.unlink()
    admin.call("PUT", "/models/m/versions/1")
    assert admin.states("m") == {"2": "AVAILABLE", "1": "AVAILABLE"}


def test_a_failure_is_reported_at_once_though_attempts_are_left(tmp_path: Path) -> None:
    admin = Administered(tmp_path, max_retries=5)
    try:
        base_path = admin.base_path("m", 1, 2)
        broken = Path(base_path, "1/broken")
        broken.write_text("UNAVAILABLE")
        admin.call("PUT", "/models/m", {"base_path": base_path})
        for _ in range(2):
            with pytest.raises(AppliedError) as caught:
                admin.call("PUT", "/models/m/versions/1")
            assert caught.value.message == (
                "Version 1 of model m could not be loaded yet: cannot parse 1; "
                "further attempts follow"
            )
            assert caught.value.code is Code.UNAVAILABLE
            (version,) = (
                version
                for version in admin.call("GET", "/models/m")["versions"]
                if version["version"] == "1"
            )
            assert version["state"] == "LOADING"
            assert version["status"]["error_code"] == "UNAVAILABLE"
            assert "of 6 failed, the next one is due at" in version["status"]["error_message"]
        broken.unlink()
        # The pause of a minute before the next attempt ends with the request.
        admin.call("PUT", "/models/m/versions/1")
        assert admin.states("m")["1"] == "AVAILABLE"
    finally:
        assert admin.core.stop(10)


def test_the_last_version_that_works_stays_and_the_request_says_so(admin: Administered) -> None:
    base_path = admin.base_path("m", 1, 2)
    Path(base_path, "1/broken").touch()
    admin.call("PUT", "/models/m", {"base_path": base_path})
    with pytest.raises(AppliedError):
        admin.call("PUT", "/models/m/versions/1")
    with pytest.raises(AppliedError, match=r"Version 2 of model m is still served") as caught:
        admin.call("DELETE", "/models/m/versions/2?timeout_seconds=0.01")
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert admin.states("m")["2"] == "AVAILABLE"


@pytest.mark.parametrize(
    ("is_stopping", "text", "code"),
    [
        (False, "The client has disconnected", Code.CANCELLED),
        (True, "The server is shutting down", Code.UNAVAILABLE),
    ],
)
def test_a_wait_ends_with_its_client_and_with_the_server(
    admin: Administered, is_stopping: bool, text: str, code: Code
) -> None:
    base_path = admin.base_path("m", 1, 2)
    Path(base_path, "1/broken").touch()
    admin.call("PUT", "/models/m", {"base_path": base_path})
    with pytest.raises(AppliedError):
        admin.call("PUT", "/models/m/versions/1")
    if is_stopping:
        admin.core.begin_to_stop()
    unload = AdminRequest(
        "DELETE", "/v1/admin/models/m/versions/2", is_cancelled=lambda: not is_stopping
    )
    with pytest.raises(AppliedError, match=text) as caught:
        admin.api.answer(unload)
    assert caught.value.code is code


def test_a_label_without_its_version_blocks_no_other_change(three: Administered) -> None:
    three.call("PUT", "/models/m/labels/stable", {"version": 3})
    three.call("PATCH", "/models/m", {"model_version_policy": {"specific": {"versions": [1]}}})
    monitor = three.core.monitor
    assert monitor.wait_for(lambda: three.states("m").get("3") == "END", 10)
    three.call("PUT", "/models/n", {"base_path": three.base_path("n", 1)})
    three.call("PUT", "/models/m/labels/canary", {"version": 1})
    with pytest.raises(FailedPreconditionError, match="version 3 of model m"):
        three.call("PUT", "/models/m/labels/canary", {"version": 3})
    assert three.published["m"].labels == {"stable": 3, "canary": 1}


@pytest.mark.parametrize(
    ("method", "path", "document", "error"),
    [
        ("PUT", "/models/n", {"base_path": "relative"}, ConfigError),
        ("PUT", "/models/n", {"base_path": "/n", "model_platform": "magic"}, ConfigError),
        ("PUT", "/models/n", {"base_path": "/n", "name": "other"}, InvalidInputError),
        ("PUT", "/models/n", {"base_pth": "/n"}, InvalidInputError),
        ("PUT", "/models/n", [], InvalidInputError),
        ("PATCH", "/models/n", {}, NotFoundError),
        ("PATCH", "/models/m", {"name": "other"}, InvalidInputError),
        ("PATCH", "/models/m", {"base_path": "relative"}, ConfigError),
        ("DELETE", "/models/n", None, NotFoundError),
        ("PUT", "/models/m/labels/stable", {"version": 9}, FailedPreconditionError),
        ("PUT", "/models/m/labels/stable", {"version": "x"}, InvalidInputError),
        ("PUT", "/models/m/labels/stable", {"version": True}, InvalidInputError),
        ("PUT", "/models/m/split", {"versions": {"1": 0}}, ConfigError),
        ("PUT", "/models/m/split", {"versions": {"x": 1}}, InvalidInputError),
        ("PUT", "/models/m/split", {"versions": 7}, InvalidInputError),
        ("PUT", "/models/m/split", {"versions": {"1": -1}}, InvalidInputError),
        ("PUT", "/models/m/shadow", {"version": 1, "fraction": 2}, ConfigError),
        ("PUT", "/models/m/versions/x", None, InvalidInputError),
        ("PUT", "/models/m/versions/1?timeout_seconds=-1", None, InvalidInputError),
        ("PUT", "/models/m/versions/1?timeout_seconds=nan", None, InvalidInputError),
        ("GET", "/models/m/shadow", None, NotFoundError),
        ("GET", "/config?format=xml", None, InvalidInputError),
        ("POST", "/models/m", {}, UnimplementedError),
        ("GET", "/nothing", None, NotFoundError),
        ("GET", "/models/m/", None, NotFoundError),
    ],
)
def test_a_refused_change_has_no_effect(
    three: Administered, method: str, path: str, document: object, error: type[ServableError]
) -> None:
    before, published = three.core.models, three.published["m"]
    with pytest.raises(error):
        three.call(method, path, document)
    assert three.core.models == before
    assert three.published == {"m": published}


def test_a_change_that_fails_later_says_that_it_is_in_force(admin: Administered) -> None:
    with pytest.raises(AppliedError, match="/nowhere/m not found") as caught:
        admin.call("PUT", "/models/m", {"base_path": "/nowhere/m"})
    assert caught.value.code is Code.NOT_FOUND
    assert admin.call("GET", "/models/m")["problem"].endswith("/nowhere/m not found")


def test_the_configuration_in_force_is_read_as_json_and_as_text(three: Administered) -> None:
    (config,) = three.call("GET", "/config")["model_config_list"]["config"]
    assert config["name"] == "m"
    assert 'name: "m"' in three.call("GET", "/config?format=text")


def test_names_are_read_as_urls_write_them(admin: Administered) -> None:
    admin.call("PUT", "/models/a%20model", {"base_path": admin.base_path("a", 1)})
    assert [model.name for model in admin.core.models] == ["a model"]
