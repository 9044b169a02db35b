"""Serves a model for a test: a directory in a separate process, Python code in this one."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from servable.errors import LoadError, ServableError, from_code
from servable.testing._running_server import RunningServer, free_port, running_server

if TYPE_CHECKING:
    from servable._server.config.models import ModelConfig
    from servable.client import Client, Model

ServableServer = Callable[..., "Served"]
"""The type of the fixture `servable_server`: the arguments of `serving`, without the `with`."""

_POLL_SECONDS = 0.02
_ASK_SECONDS = 5.0

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Served:
    """A served model.

    Attributes:
        name: The name of the model.
        port: Takes gRPC and REST.
        process: The server, if it runs in a separate process.
    """

    name: str
    port: int
    process: RunningServer | None = None

    @property
    def address(self) -> str:
        """The address for gRPC clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The base URL of REST."""
        return f"http://{self.address}"

    @cached_property
    def client(self) -> Client:
        """A gRPC client; needs `pip install 'servable[client]'`."""
        from servable.client import Client

        return Client(self.address)

    @cached_property
    def model(self) -> Model:
        """The model, ready to be called: `served.model.predict([1.0])`."""
        return self.client.model(self.name)

    def close_client(self) -> None:
        """Close the client, if it was used."""
        client = self.__dict__.pop("client", None)
        if client is not None:
            client.close()


@contextlib.contextmanager
def serving(
    model: object,
    *flags: str,
    name: str = "model",
    timeout_seconds: float = 60.0,
) -> Iterator[Served]:
    """Serve a model on a free port until the end of the `with` statement.

    Args:
        model: One of

            - a path: the file of a model, a version directory, or the base path of several, of any kind. It is served
              by a separate process.
            - Python code: a function that is declared with `servable.signature.serves`, a module of such functions, or
              a model (an object with `signatures` and `run`, or a class that is constructed with a directory). It is
              served by this process. It may therefore be defined in the test, be stopped in a debugger, and use objects
              of the test.
        flags: Further flags of the command line, such as `--enable_cors`; for paths only.
        name: The name of the model.
        timeout_seconds: How long the load may take.

    Yields:
        The model, once it answers.

    Raises:
        ServableError: The load failed; the message has the reason.
        TimeoutError: The time-out has passed.
    """
    with tempfile.TemporaryDirectory(prefix="servable-test-") as directory:
        if isinstance(model, (str, os.PathLike)):
            start = _process(Path(model), flags, name, Path(directory))
        elif flags:
            raise ValueError(f"got flags for Python code, want none: {' '.join(flags)}")
        else:
            start = _in_process(model, name, Path(directory))
        with start as served:
            _wait(served, timeout_seconds)
            try:
                yield served
            finally:
                served.close_client()


@contextlib.contextmanager
def _process(path: Path, flags: Sequence[str], name: str, directory: Path) -> Iterator[Served]:
    from servable._server.model_paths import find_models
    from servable.platforms import PlatformContext, find_platforms

    (model,) = find_models([str(path)], find_platforms(PlatformContext()), name).models
    config = _write_config(directory, model)
    with running_server(
        f"--model_config_file={config}",
        "--max_num_load_retries=0",
        # Versions may be links to other places.
        "--allow_python_models",
        *flags,
    ) as process:
        yield Served(name, process.port, process)


@contextlib.contextmanager
def _in_process(model: object, name: str, directory: Path) -> Iterator[Served]:
    from servable._server.config.flags import Flags
    from servable._server.server import ModelServer

    # A model directory names its servable by module and attribute; this module provides one.
    attribute = f"_served_{next(_numbers)}"
    module: ModuleType = sys.modules[__name__]
    aside = directory / "aside"
    aside.mkdir()
    (aside / "entry_point.txt").write_text(f"{__name__}:{attribute}\n")
    base_path = directory / "base_path"
    base_path.mkdir()
    aside.rename(base_path / "1")  # a renamed directory counts as complete at once
    from servable._server.config.models import ModelConfig

    config = _write_config(directory, ModelConfig(name, str(base_path), "python"))
    port = free_port()
    setattr(module, attribute, model)
    try:
        server = ModelServer(
            # REST gives the reason of a failed load, as for a server in another process.
            Flags(
                model_config_file=str(config),
                port=port,
                max_num_load_retries=0,
                open_ports="at_once",
            )
        )
        server.start()
        try:
            yield Served(name, port)
        finally:
            server.stop()
    finally:
        delattr(module, attribute)


def _write_config(directory: Path, model: ModelConfig) -> Path:
    from servable._server.config.model_messages import models_text

    config = directory / "models.config"
    config.write_text(models_text([model]))
    return config


def _wait(served: Served, timeout_seconds: float) -> None:
    """Wait until a version is available, or all have failed."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        found = _status(served)
        if any(version["state"] == "AVAILABLE" for version in found):
            return
        failures = [v["status"] for v in found if v["state"] == "END"]
        if failures and len(failures) == len(found):
            raise _failure(failures[0])
        process = served.process
        if process is not None and process.process.poll() is not None:
            raise LoadError(f"the server ended ({process.process.returncode}):\n{process.log}")
        if time.monotonic() > deadline:
            log = "" if process is None else f":\n{process.log}"
            raise TimeoutError(f"{served.name} is not available after {timeout_seconds:g} s{log}")
        time.sleep(_POLL_SECONDS)


def _status(served: Served) -> list[dict[str, Any]]:
    try:
        with urllib.request.urlopen(
            f"{served.url}/v1/models/{served.name}", timeout=_ASK_SECONDS
        ) as answer:
            found: list[dict[str, Any]] = json.load(answer)["model_version_status"]
            return found
    except urllib.error.HTTPError as error:
        error.close()  # no version is known yet
    except OSError:
        pass  # the port is not open yet
    return []


def _failure(status: dict[str, str]) -> ServableError:
    from servable.errors import Code

    return from_code(Code[status["error_code"]], status["error_message"])
