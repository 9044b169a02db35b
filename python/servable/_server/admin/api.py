"""The operations of the administration API: one function for each route, on top of `ServerCore`.

Every change is a reload of the whole configuration, made atomically from the current one. It is checked as a whole,
applied per model, and has no effect if it is refused.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote

from servable._server.admin.edits import (
    Edit,
    patch_model,
    with_label,
    with_model,
    with_shadow,
    with_split,
    with_version,
    without_label,
    without_model,
    without_shadow,
    without_split,
    without_version,
)
from servable._server.config.model_messages import model_from_json, model_json, models_text
from servable._server.config.models import ModelConfig
from servable._server.server_core import ServerCore
from servable._server.telemetry.devices import Device, short_name
from servable.errors import (
    Code,
    InvalidInputError,
    NotFoundError,
    ServableError,
    UnimplementedError,
)
from servable.lifecycle._ids import ServableId
from servable.lifecycle._monitor import StateMonitor
from servable.lifecycle._states import ServableState

PREFIX = "/v1/admin"

_LOAD_SECONDS = 60.0
"""The default time limit of a request that loads a version, in seconds."""

_MAX_LOAD_SECONDS = 3600.0

_LOOK_SECONDS = 0.2
"""How often such a request checks for a failed attempt, in seconds: no event reports one while others are due."""


@dataclass(frozen=True, slots=True)
class AdminRequest:
    """A parsed request.

    Attributes:
        method: The HTTP method.
        target: The path with its query.
        body: The body, empty if there is none.
        is_cancelled: Whether the client no longer waits for the answer.
    """

    method: str
    target: str
    body: bytes = b""
    is_cancelled: Callable[[], bool] = lambda: False

    @property
    def path(self) -> str:
        """The path, as it was sent."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters; of several with one name the last."""
        parsed = parse_qs(self.target.partition("?")[2])
        return {name: values[-1] for name, values in parsed.items()}

    def document(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            InvalidInputError: It is no JSON object.
        """
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"The body is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise InvalidInputError("The body has to be a JSON object")
        return document


Answer: TypeAlias = dict[str, Any] | str
"""A JSON document, or plain text."""

ShadowStatistics: TypeAlias = Callable[[], Mapping[str, Mapping[str, int | str]]]
"""Returns the counts of copies for each model with a shadow."""


class AppliedError(ServableError):
    """A change was put in force, but a part of it failed."""


class AdminApi:
    """The routes of the administration API. Safe to use from several threads."""

    def __init__(
        self,
        core: ServerCore,
        shadow_statistics: ShadowStatistics,
        devices: Callable[[], Sequence[Device]],
    ) -> None:
        """Administer a core.

        Args:
            core: Serves the models.
            shadow_statistics: Returns the counts of copied requests.
            devices: Returns the devices of TensorFlow.
        """
        self._core = core
        self._shadow_statistics = shadow_statistics
        self._tensorflow_devices = devices
        name, label = r"/models/([^/]+)", r"/labels/([^/]+)"
        version = r"/versions/([^/]+)"
        routes: Sequence[tuple[str, str, Callable[..., Answer]]] = (
            ("GET", "/config", self._config),
            ("GET", "/devices", self._devices),
            ("GET", "/models", self._models),
            ("GET", name, self._model),
            ("PUT", name, self._put_model),
            ("PATCH", name, self._patch_model),
            ("DELETE", name, self._delete_model),
            ("PUT", name + label, self._put_label),
            ("DELETE", name + label, self._delete_label),
            ("PUT", name + r"/split", self._put_split),
            ("DELETE", name + r"/split", self._delete_split),
            ("PUT", name + label + r"/split", self._put_split),
            ("DELETE", name + label + r"/split", self._delete_split),
            ("GET", name + r"/shadow", self._shadow),
            ("PUT", name + r"/shadow", self._put_shadow),
            ("DELETE", name + r"/shadow", self._delete_shadow),
            ("PUT", name + version, self._load),
            ("DELETE", name + version, self._unload),
        )
        self._routes = [(m, re.compile(PREFIX + pattern), do) for m, pattern, do in routes]

    def answer(self, request: AdminRequest) -> Answer:
        """Execute one request.

        Raises:
            NotFoundError: There is no such route, model, label, split, shadow or version.
            UnimplementedError: The path is known, but not with this method.
            InvalidInputError: The body or a parameter is invalid.
            ServableError: The error of the reload.
        """
        is_path = False
        for method, pattern, do in self._routes:
            match = pattern.fullmatch(request.path)
            if match is None:
                continue
            is_path = True
            if method == request.method:
                return do(request, *map(unquote, match.groups()))
        if is_path:
            raise UnimplementedError(f"{request.method} is not possible on {request.path}")
        raise NotFoundError(f"There is no {request.path} in the administration API")

    # ---- reading

    def _config(self, request: AdminRequest) -> Answer:
        models = self._core.models
        match request.query.get("format", "json"):
            case "text":
                return models_text(models)
            case "json":
                return {"model_config_list": {"config": [model_json(m) for m in models]}}
            case other:
                raise InvalidInputError(f"The format is json or text; got {other}")

    def _devices(self, request: AdminRequest) -> Answer:
        del request
        return {
            "devices": [
                {
                    "name": short_name(name),
                    "type": kind,
                    **({} if limit is None else {"memory_limit_bytes": str(limit)}),
                }
                for name, kind, limit in self._tensorflow_devices()
            ]
        }

    def _models(self, request: AdminRequest) -> Answer:
        del request
        return {"models": [self._described(model) for model in self._core.models]}

    def _model(self, request: AdminRequest, name: str) -> Answer:
        del request
        return self._described(self._configured(name))

    def _shadow(self, request: AdminRequest, name: str) -> Answer:
        del request
        self._configured(name)
        statistics = self._shadow_statistics().get(name)
        if statistics is None:
            raise NotFoundError(f"Model {name} has no shadow")
        return _statistics(statistics)

    # ---- changing

    def _put_model(self, request: AdminRequest, name: str) -> Answer:
        model = model_from_json(
            {"name": name, "model_platform": "tensorflow", **request.document()}
        )
        if model.name != name:
            raise InvalidInputError(f"The path names model {name}, the body {model.name}")
        return self._changed(request, name, with_model(model))

    def _patch_model(self, request: AdminRequest, name: str) -> Answer:
        patch = request.document()

        def patched(models: Sequence[ModelConfig]) -> Sequence[ModelConfig]:
            before = next((model for model in models if model.name == name), None)
            if before is None:
                raise _no_model(name)
            after = model_from_json(patch_model(model_json(before), patch))
            if after.name != name:
                raise InvalidInputError("A model cannot be renamed; add one and remove the other")
            return with_model(after)(models)

        return self._changed(request, name, patched)

    def _delete_model(self, request: AdminRequest, name: str) -> Answer:
        self._change(request, without_model(name))
        return {}

    def _put_label(self, request: AdminRequest, name: str, label: str) -> Answer:
        version = _integer(request.document(), "version")
        return self._changed(request, name, with_label(name, label, version))

    def _delete_label(self, request: AdminRequest, name: str, label: str) -> Answer:
        return self._changed(request, name, without_label(name, label))

    def _put_split(self, request: AdminRequest, name: str, label: str = "") -> Answer:
        document = {**request.document(), "label": label}
        return self._changed(request, name, with_split(name, document))

    def _delete_split(self, request: AdminRequest, name: str, label: str = "") -> Answer:
        return self._changed(request, name, without_split(name, label))

    def _put_shadow(self, request: AdminRequest, name: str) -> Answer:
        return self._changed(request, name, with_shadow(name, request.document()))

    def _delete_shadow(self, request: AdminRequest, name: str) -> Answer:
        return self._changed(request, name, without_shadow(name))

    def _load(self, request: AdminRequest, name: str, version: str) -> Answer:
        number, seconds = _version(version), _seconds(request.query)
        served = {v for v, s in self._core.monitor.live_states(name).items() if _is_available(s)}
        fresh = StateMonitor(self._core.bus)
        try:
            self._change(request, with_version(name, number, served))
            self._core.retry(ServableId(name, number))
            self._wait_for(request, ServableId(name, number), fresh, seconds)
        finally:
            fresh.close()
        return self._described(self._configured(name))

    def _unload(self, request: AdminRequest, name: str, version: str) -> Answer:
        number, seconds = _version(version), _seconds(request.query)
        served = {v for v, s in self._core.monitor.live_states(name).items() if _is_available(s)}
        self._change(request, without_version(name, number, served))
        monitor = self._core.monitor

        def is_gone() -> bool:
            state = monitor.state(ServableId(name, number))
            return state is None or state.state >= ServableState.UNLOADING

        end = time.monotonic() + seconds
        while not monitor.wait_for(is_gone, _look_until(end)):
            self._check_wait(request)
            if time.monotonic() >= end:
                raise AppliedError(
                    f"Version {number} of model {name} is still served after {seconds:g} s; it goes "
                    "once its requests have ended and another version can take its place",
                    code=Code.DEADLINE_EXCEEDED,
                )
        return self._described(self._configured(name))

    def _changed(self, request: AdminRequest, name: str, edit: Edit) -> Answer:
        self._change(request, edit)
        return self._described(self._configured(name))

    def _change(self, request: AdminRequest, edit: Edit) -> None:
        change = self._core.begin_change(edit)
        try:
            is_complete = change.wait_unless_cancelled(request.is_cancelled, _LOOK_SECONDS)
        except ServableError as error:
            raise AppliedError(error.message, code=error.code) from error
        if not is_complete:
            raise _cancelled()

    def _wait_for(
        self, request: AdminRequest, wanted: ServableId, fresh: StateMonitor, seconds: float
    ) -> None:
        """Wait until a version serves.

        Raises:
            AppliedError: An attempt to load it failed, it does not exist, takes too long, or the request is cancelled.
        """
        version = f"Version {wanted.version} of model {wanted.name}"

        def is_settled() -> bool:
            heard = fresh.state(wanted)
            has_ended = heard is not None and heard.state is ServableState.END
            return has_ended or _is_available(self._core.monitor.state(wanted))

        end = time.monotonic() + seconds
        while not fresh.wait_for(is_settled, _look_until(end)):
            if (failure := self._core.last_failure(wanted)) is not None:
                raise AppliedError(
                    f"{version} could not be loaded yet: {failure.message}; further attempts follow",
                    code=failure.code,
                )
            self._check_wait(request)
            if time.monotonic() >= end:
                break
        if _is_available(self._core.monitor.state(wanted)):
            return
        heard = fresh.state(wanted)
        if heard is not None and heard.error is not None:
            raise AppliedError(
                f"{version} could not be loaded: {heard.error.message}; it is tried again when its "
                "files change, and when this is asked for again",
                code=heard.error.code,
            )
        if heard is None and not self._core.monitor.live_states(wanted.name).get(wanted.version):
            raise AppliedError(
                f"No version {wanted.version} of model {wanted.name} was found in {seconds:g} s; "
                "it is loaded once it is there",
                code=Code.NOT_FOUND,
            )
        raise AppliedError(
            f"{version} is not available after {seconds:g} s; loading continues",
            code=Code.DEADLINE_EXCEEDED,
        )

    def _check_wait(self, request: AdminRequest) -> None:
        """End a wait that has become pointless.

        Raises:
            AppliedError: The server is shutting down, or the request is cancelled.
        """
        if self._core.is_stopping:
            raise AppliedError("The server is shutting down", code=Code.UNAVAILABLE)
        if request.is_cancelled():
            raise _cancelled()

    # ---- describing

    def _configured(self, name: str) -> ModelConfig:
        for model in self._core.models:
            if model.name == name:
                return model
        raise _no_model(name)

    def _described(self, model: ModelConfig) -> dict[str, Any]:
        states = self._core.monitor.states(model.name)
        available = {version for version, state in states.items() if _is_available(state)}
        described: dict[str, Any] = {
            "name": model.name,
            "config": model_json(model),
            "versions": [
                {
                    "version": str(version),
                    "state": recorded.state.name,
                    "status": {
                        "error_code": (recorded.error.code if recorded.error else Code.OK).name,
                        "error_message": recorded.error.message if recorded.error else "",
                    },
                }
                for version, recorded in states.items()
            ],
        }
        if model.splits:
            described["traffic"] = [
                {
                    "label": split.label,
                    "shares": {str(v): share for v, share in split.shares(available).items()},
                    "unavailable": [str(version) for version in sorted(split.missing(available))],
                }
                for split in model.splits
            ]
        if model.shadow is not None:
            statistics = self._shadow_statistics().get(model.name)
            described["shadow"] = _statistics(statistics) if statistics else {}
        problem = self._core.problems().get(model.name)
        if problem is not None:
            described["problem"] = problem.message
        return described


def _statistics(statistics: Mapping[str, int | str]) -> dict[str, Any]:
    # As text, like all 64-bit numbers in protobuf's JSON.
    return {**statistics, "version": str(statistics["version"])}


def _is_available(recorded: Any) -> bool:
    return recorded is not None and recorded.state is ServableState.AVAILABLE


def _look_until(end: float) -> float:
    """How long to wait before the next check, in seconds."""
    return min(_LOOK_SECONDS, max(0.0, end - time.monotonic()))


def _cancelled() -> AppliedError:
    return AppliedError("The client has disconnected; loading continues", code=Code.CANCELLED)


def _no_model(name: str) -> NotFoundError:
    return NotFoundError(f"Model {name} is not configured")


def _version(text: str) -> int:
    if re.fullmatch("[0-9]{1,18}", text, re.ASCII) is None:
        raise InvalidInputError(f"A version is a number; got {text}")
    return int(text)


def _integer(document: Mapping[str, Any], key: str) -> int:
    value = document.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidInputError(f'The body has to name a version, such as {{"{key}": 3}}')
    return _version(str(value))


def _seconds(query: Mapping[str, str]) -> float:
    text = query.get("timeout_seconds", str(_LOAD_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MAX_LOAD_SECONDS:
        raise InvalidInputError(
            f"timeout_seconds lies between 0 and {_MAX_LOAD_SECONDS:g}; got {text}"
        )
    return seconds
