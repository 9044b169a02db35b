"""`ModelServer`: wires the parts, and starts, drains and stops them."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import FrameType

from servable._server.border.gateway import Server
from servable._server.change_under_way import ChangeUnderWay
from servable._server.client_requests import ClientRequests
from servable._server.config.api_keys import read_api_keys
from servable._server.config.flags import Flags
from servable._server.config.models import (
    ModelConfig,
    ModelConfigError,
    RefusedLabelError,
    read_model_config_file,
    validate_models,
    write_place,
)
from servable._server.config.options import (
    OPEN_AT_ONCE,
    OPEN_WHEN_LOADED,
    check_flags,
    config_rules,
    initial_load_slots,
    initial_models,
    remote_options,
    retry_policy,
    server_options,
    slots,
)
from servable._server.config.permissions import (
    Permissions,
    PermissionsInForce,
    start_permissions,
    why_not_trusted,
)
from servable._server.config.server_options import Endpoint
from servable._server.config.tls import read_tls, tls_files
from servable._server.credential_files import CredentialFiles, watch
from servable._server.model_paths import chosen_name, find_models
from servable._server.publisher import ModelPublisher
from servable._server.remote.urls import shown
from servable._server.server_core import CoreOptions, ServerCore
from servable._server.slow_loads import SlowLoads
from servable._server.startup import StartSummary, StartupWatch, started_models
from servable._server.telemetry import ControlPlaneMetrics
from servable._server.traffic_report import TrafficReport
from servable.errors import ConfigError, ServableError
from servable.platforms import PlatformContext, find_platforms
from servable.platforms._registry import code_platforms, option_types, require_installed
from servable.sources._settling import SettleTimes
from servable.sources._version_policy import Specific

_log = logging.getLogger(__name__)

_UNLOAD_SECONDS = 5.0
"""The time limit of the final unload, in seconds; the end of the process frees the memory anyway."""


_REPORT_SECONDS = 10.0
"""The interval of traffic reports to the log, in seconds."""

_LOOK_SECONDS = 1.0
"""How often a configuration file that is not polled is checked during its loads, in seconds."""

_SETTLE_SECONDS = 1.0
"""How long a version directory must be unchanged before it is served, in seconds, unless it was renamed into place."""


class ModelServer:
    """A server for the models that its flags name.

    Ports open once each model has its first available version, has failed to load once, or has none to load. Until a
    model has such a version, requests for it get UNAVAILABLE with the reason. `run` does everything that a command
    needs; `start` and `stop` are for programs with their own main loop.
    """

    def __init__(
        self, flags: Flags, *, paths: Sequence[str] = (), is_compatible: bool = True
    ) -> None:
        """Check the flags and wire the parts; nothing is bound or loaded yet.

        Args:
            flags: The command line.
            paths: Paths of models, in place of the flags that name models; see `model_paths.py`.
            is_compatible: Whether to behave as TensorFlow Serving in two respects: base paths in configuration files
                are absolute, and SIGHUP ends the process.

        Raises:
            ConfigError: The flags, or a file that they name, cannot be used; no model is recognised in a path.
            LoadError: The runtime of a model is not installed.
        """
        check_flags(flags, paths)
        self._flags = flags
        self._metrics = ControlPlaneMetrics()
        permissions = PermissionsInForce()
        self._platforms = platforms = find_platforms(
            PlatformContext(flags, self._metrics, permissions)
        )
        self._is_compatible = is_compatible
        self._rules = config_rules(
            flags, option_types(platforms), takes_relative_paths=not is_compatible
        )
        self._models = self._in_paths(paths) if paths else initial_models(flags, self._rules)
        self._config_file_problem = ""
        permissions.current = self._permissions(self._models)
        if self._models:
            with self._writing_places():
                rules = replace(self._rules, permissions=permissions.current)
                validate_models(self._models, rules=rules)
            # A retry would not help, and a server without the frameworks of its models cannot answer.
            require_installed(platforms, {model.platform for model in self._models})
        self._options = server_options(flags)
        self._requests = ClientRequests(self._metrics)
        self._server = Server(self._options, self._requests)
        self._credentials = self._credential_files()
        self._core = ServerCore(
            ModelPublisher(self._server.publish),
            platforms,
            CoreOptions(
                poll_wait_seconds=flags.file_system_poll_wait_seconds,
                retry=retry_policy(flags),
                load_slots=slots(flags.num_load_threads),
                initial_load_slots=initial_load_slots(flags.num_load_threads),
                unload_slots=slots(flags.num_unload_threads),
                allow_labels_for_unavailable=flags.allow_version_labels_for_unavailable_models,
                servable_versions_always_present=flags.servable_versions_always_present,
                fail_if_zero_versions=flags.fail_if_no_model_versions_found,
                refuse_shared_base_paths=flags.refuse_shared_base_paths,
                settle_times=SettleTimes(complete_seconds=_SETTLE_SECONDS),
                remote=remote_options(flags),
                permissions=permissions,
            ),
        )
        self._core.bus.subscribe(self._metrics.note)
        self._slow_loads = SlowLoads(self._core.bus)
        self._ports: list[int] = []
        self._stopping = threading.Event()
        self._signals = 0
        self._failure: ServableError | None = None
        self._startup: StartupWatch | None = None
        self._begun = time.monotonic()
        # The last configuration file that was put in force.
        self._applied = self._models
        self._applying = threading.Lock()
        # The events that `run` waits for. A signal handler may add to a simple queue at any moment.
        self._happened: queue.SimpleQueue[int | ServableError | None] = queue.SimpleQueue()

    @property
    def ports(self) -> Sequence[int]:
        """The open ports, `--port` first."""
        return tuple(self._ports)

    def start(self) -> None:
        """Bind the ports, begin to load, and open the ports when that is done.

        Returns once each model has its first version, has failed to load once, or has none to load; with
        `--open_ports=at_once` without waiting for that.

        Raises:
            ServableError: A port is taken, the configuration is refused, or every model has finally failed to load.
        """
        self._startup = startup = self._begin()
        if self._flags.open_ports == OPEN_WHEN_LOADED:
            startup.wait_until_tried(self._is_over)
            if self._failure is not None:
                raise self._failure
            if not self._is_over():
                self._open_ports()

    def _begin(self) -> StartupWatch:
        """Start everything, without waiting."""
        names = [model.name for model in self._models or ()]
        self._core.expect(names)
        with _naming_the_server():
            self._ports = self._server.start()
        for endpoint in self._options.endpoints:
            if endpoint.offer == "administration":
                _log.info("Administration API on %s", _shown(endpoint))
        if self._flags.open_ports == OPEN_AT_ONCE:
            self._open_ports()
        self._slow_loads.start()
        startup = StartupWatch(self._core, names, self._core.complete_start, self._fail)
        with self._writing_places():
            self._core.start(self._models)
        self._requests.begin(self._core, self._server.shadow_statistics)
        if self._flags.model_config_file and self._flags.model_config_file_poll_wait_seconds > 0:
            threading.Thread(
                target=self._poll_model_config, name="model-config-poll", daemon=True
            ).start()
        period = self._flags.credentials_poll_wait_seconds
        if self._credentials and period > 0:
            threading.Thread(
                target=watch,
                args=(self._credentials, self._stopping, period),
                name="credential-files",
                daemon=True,
            ).start()
        report = TrafficReport(self._core, self._server.shadow_statistics)
        threading.Thread(
            target=report.run,
            args=(self._stopping, _REPORT_SECONDS),
            name="traffic-report",
            daemon=True,
        ).start()
        return startup

    def run(self, on_open: Callable[[], None] = lambda: None) -> None:
        """Serve until a signal ends it.

        The first SIGTERM or SIGINT stops accepting, finishes requests in flight, unloads and returns. A second one ends
        the process at once. SIGHUP reloads the configuration, unless the server is compatible. For the main thread
        only.

        Args:
            on_open: Called on a separate thread once the ports are open and each model has its first version, has
                failed to load once, or has none to load.

        Raises:
            ServableError: The start failed, also later: when every model has finally failed to load.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if not self._is_compatible:
            signal.signal(signal.SIGHUP, lambda number, frame: self._happened.put(number))
        self.start()
        if not self._is_over():
            threading.Thread(
                target=self._tell_once_tried, args=(on_open,), name="start-report", daemon=True
            ).start()
        while (happened := self._happened.get()) == signal.SIGHUP:
            # On a separate thread too, because a reload may take a while.
            threading.Thread(target=self._read_again, name="hang-up", daemon=True).start()
        if isinstance(happened, ServableError):
            raise happened
        # On a separate thread, because this one must handle the second signal.
        threading.Thread(target=self._stop_and_tell, name="shutdown", daemon=True).start()
        while self._happened.get() is not None:
            pass

    def stop(self) -> bool:
        """Drain and unload, within the time limits of the flags.

        Returns:
            Whether all requests in flight finished.
        """
        self._stopping.set()
        self._slow_loads.stop()
        self._requests.close()
        self._core.begin_to_stop()
        deadline = time.monotonic() + self._flags.drain_timeout_seconds
        drained = self._server.drain(self._flags.drain_timeout_seconds)
        if not drained:
            _log.warning("Requests in flight did not finish in time and were aborted")
        self._core.stop(min(_UNLOAD_SECONDS, max(1.0, deadline - time.monotonic())))
        return drained

    def _in_paths(self, paths: Sequence[str]) -> tuple[ModelConfig, ...]:
        """The models in the paths of the command line; says what was found."""
        found = find_models(paths, self._platforms, chosen_name(self._flags))
        for model in found.models:
            policy, versions = model.version_policy, ""
            if isinstance(policy, Specific):
                versions = f", version {', '.join(map(str, policy.versions))}"
            _log.info(
                "Found model %s: %s in %s%s",
                *(model.name, model.platform, shown(model.base_path), versions),
            )
        for text in found.left_out:
            _log.warning("Left out: %s", text)
        return found.models

    def _credential_files(self) -> list[CredentialFiles]:
        flags = self._flags
        files = []
        if of_tls := tls_files(flags):
            files.append(CredentialFiles(of_tls, self._set_tls))
        if flags.api_keys_file:
            files.append(CredentialFiles((flags.api_keys_file,), self._set_api_keys))
        rest = flags.rest_api_port not in (0, flags.port) or flags.rest_api_socket_path
        if flags.ssl_config_file and rest:
            _log.warning(
                "--ssl_config_file is for gRPC, as in TensorFlow Serving: REST goes without TLS; "
                "--tls_certificate_file is for both"
            )
        return files

    def _set_api_keys(self) -> None:
        self._server.set_api_keys(read_api_keys(self._flags.api_keys_file))

    def _set_tls(self) -> None:
        credentials = read_tls(self._flags)
        try:
            self._server.set_tls(credentials)
        except ConfigError as error:
            if not self._flags.ssl_config_file:
                raise
            message = f"Failed to BuildAndStart gRPC server: {error.message}"
            raise ConfigError(message) from error

    def _poll_model_config(self) -> None:
        while True:
            self._apply_model_config()
            if self._stopping.wait(self._flags.model_config_file_poll_wait_seconds):
                return

    def _read_again(self) -> None:
        """Reload all files, without draining."""
        _log.info("SIGHUP: reading the configuration again")
        if self._flags.model_config_file:
            self._apply_model_config(is_asked=True)
        for files in self._credentials:
            # A change is applied when two inspections in succession found it.
            files.look()
            files.look()

    def _apply_model_config(self, *, is_asked: bool = False) -> None:
        """Put the configuration file in force, and wait for the effects.

        Args:
            is_asked: Whether to put it in force even if it is unchanged, because other changes may have been made
                since.
        """
        try:
            with self._applying:
                models = self._read_model_config()
                permissions = self._permissions(models)
                self._core.permit(permissions)
                # With the administration API enabled, an unchanged file has no effect.
                if not (not self._flags.admin_api_port or models != self._applied or is_asked):
                    return
        except ConfigError as error:
            _log.error("Failed to read ModelServerConfig file: %s", error)
            return
        try:
            with self._metrics.config_reload("file"):
                with self._applying, self._writing_places():
                    change = self._core.begin_reload(models)
                    self._applied = models
                if change is not None:
                    self._wait_unless_file_changes(models, change)
        except ServableError as error:
            if not self._stopping.is_set():
                _log.error("PollFilesystemAndReloadConfig failed to ReloadConfig: %s", error)

    def _wait_unless_file_changes(
        self, models: tuple[ModelConfig, ...] | None, change: ChangeUnderWay
    ) -> None:
        """Wait for a change, unless the file changes again: the new file may remove a model that never loads."""

        def has_changed() -> bool:
            try:
                return self._read_model_config() != models
            except ConfigError:  # reported after the wait
                return False

        period = self._flags.model_config_file_poll_wait_seconds
        change.wait_unless_cancelled(has_changed, period if period > 0 else _LOOK_SECONDS)

    @contextlib.contextmanager
    def _writing_places(self) -> Iterator[None]:
        """Report the place of an error in the file only when the file is to be put in force."""
        try:
            yield
        except (ModelConfigError, RefusedLabelError) as error:
            if self._flags.model_config_file:
                write_place(self._flags.model_config_file, error.index, error)
            raise

    def _read_model_config(self) -> tuple[ModelConfig, ...] | None:
        return read_model_config_file(self._flags.model_config_file, self._rules)

    def _permissions(self, models: Sequence[ModelConfig] | None) -> Permissions:
        """The permissions that follow from these models of the configuration file, or of the start."""
        flags = self._flags
        permissions = start_permissions(
            flags,
            models,
            remote_options(flags).cache_directory,
            code_platforms(self._platforms),
            self._models or (),
        )
        problem = ""
        if flags.model_config_file:
            problem = why_not_trusted(flags.model_config_file, permissions.code_stores)
        if problem and problem != self._config_file_problem:
            _log.warning(
                "--model_config_file=%s is treated like a request, which can bring neither code nor further "
                "remote stores: %s",
                shown(flags.model_config_file),
                problem,
            )
        self._config_file_problem = problem
        return permissions

    def rehearse(self) -> None:
        """Do what a start does up to the first load, and undo it; the server can then not be started.

        Raises:
            ServableError: The error that would end the start.
        """
        with _naming_the_server():
            self._server.start()
        try:
            self._core.check(self._models)
        finally:
            self._requests.close()
            self._server.drain(0.0)

    def summary(self) -> StartSummary:
        """The result of the start, for a report."""
        flags = self._flags
        rest_port = flags.rest_api_port or flags.port
        by_port = {
            int(e.address.rpartition(":")[2]): e
            for e in self._options.endpoints
            if not e.address.startswith("unix:")
        }
        endpoint = by_port.get(rest_port)
        return StartSummary(
            seconds=time.monotonic() - self._begun,
            models=started_models(self._core),
            grpc_port=flags.port or flags.rest_api_port,
            rest_port=rest_port,
            has_tls=endpoint is not None and endpoint.tls,
            asks_for_keys=bool(flags.api_keys_file),
            other_addresses=tuple(
                e.address for e in self._options.endpoints if e.address.startswith("unix:")
            ),
        )

    def metadata(self, model: str, version: int) -> bytes:
        """The REST document with the metadata of a version, without counting a request.

        Raises:
            ServableError: There is no such version, or it does not serve.
        """
        return self._server.metadata(model, version)

    def _open_ports(self) -> None:
        with _naming_the_server():
            self._server.open()
        for endpoint in self._options.endpoints:
            if endpoint.offer != "administration":
                _log.info("Listening on %s", _shown(endpoint))
        flags = self._flags
        # Tools wait for these lines.
        if flags.port:
            _log.info("Running gRPC ModelServer at 0.0.0.0:%d ...", flags.port)
        if flags.grpc_socket_path:
            _log.info("Running gRPC ModelServer at UNIX socket %s ...", flags.grpc_socket_path)
        if flags.rest_api_port:
            if flags.rest_api_port == flags.port:
                _log.info("--rest_api_port is --port: one port serves REST and gRPC")
            _log.info("Exporting HTTP/REST API at:localhost:%d ...", flags.rest_api_port)

    def _tell_once_tried(self, on_open: Callable[[], None]) -> None:
        if self._startup is not None:
            self._startup.wait_until_tried(self._is_over)
        if not self._is_over():
            on_open()

    def _is_over(self) -> bool:
        return self._stopping.is_set() or self._signals > 0 or self._failure is not None

    def _fail(self, failure: ServableError) -> None:
        self._failure = failure
        self._happened.put(failure)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signals += 1
        if self._signals > 1:
            os._exit(128 + number)
        self._happened.put(number)

    def _stop_and_tell(self) -> None:
        try:
            self.stop()
        finally:
            self._happened.put(None)


@contextlib.contextmanager
def _naming_the_server() -> Iterator[None]:
    """Prefix errors about addresses with the words of TensorFlow Serving."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"Failed to BuildAndStart gRPC server: {error.message}") from error


def _shown(endpoint: Endpoint) -> str:
    return endpoint.address + (" with TLS" if endpoint.tls else "")
