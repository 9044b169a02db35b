"""`ModelServer`: joins the parts, starts, drains, stops."""

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
from servable._server.gateway import Server
from servable._server.publisher import ModelPublisher
from servable._server.remote.urls import shown
from servable._server.server_core import CoreOptions, ServerCore
from servable._server.slow_loads import SlowLoads
from servable._server.startup import StartSummary, StartupWatch, started_models
from servable._server.telemetry import ControlPlaneMetrics
from servable._server.traffic_report import TrafficReport
from servable.errors import ConfigError, ServableError
from servable.platforms import PlatformContext, find_platforms
from servable.platforms._registry import code_platforms
from servable.sources._settling import SettleTimes

_log = logging.getLogger(__name__)

_UNLOAD_SECONDS = 5.0
"""How long unloading may take at the end: the process's memory goes back with the process."""


_REPORT_SECONDS = 10.0
"""How often splits and shadows are looked at for something to log."""

_LOOK_SECONDS = 1.0
"""How often a configuration file that is not polled is looked at while what it brought loads."""

_SETTLE_SECONDS = 1.0
"""How long nothing in a version directory may have changed before it is served, unless it was
renamed into its place."""


class ModelServer:
    """A server for the models that its flags name.

    Ports open once each model has its first available version, has failed to load once, or has none
    to load. Until a model has such a version, requests for it get UNAVAILABLE with the reason. `run`
    does everything a command needs; `start` and `stop` are for programs that have a main loop.
    """

    def __init__(self, flags: Flags, *, is_compatible: bool = True) -> None:
        """Check the flags and join the parts; nothing is bound or loaded yet.

        Args:
            flags: The command line.
            is_compatible: Whether to do as TensorFlow Serving where something else is handier: base
                paths in configuration files are absolute, and SIGHUP ends the process.

        Raises:
            ConfigError: The flags, or a file that they name, cannot be used.
            LoadError: TensorFlow is not installed.
        """
        check_flags(flags)
        self._flags = flags
        self._metrics = ControlPlaneMetrics()
        permissions = PermissionsInForce()
        self._platforms = platforms = find_platforms(
            PlatformContext(flags, self._metrics, permissions)
        )
        self._is_compatible = is_compatible
        self._rules = config_rules(flags, platforms, takes_relative_paths=not is_compatible)
        self._models = initial_models(flags, self._rules)
        self._config_file_problem = ""
        permissions.current = self._permissions(self._models)
        if self._models:
            with self._writing_places():
                rules = replace(self._rules, permissions=permissions.current)
                validate_models(self._models, rules=rules)
            # A retry would not help, and a server that answers nothing helps nobody.
            for name in sorted({model.platform for model in self._models}):
                platforms[name].require_installed()
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
        # What the configuration file says of what is served, as far as it could be put in force.
        self._applied = self._models
        self._applying = threading.Lock()
        # What `run` waits for. A simple queue may be filled by a signal handler at any moment.
        self._happened: queue.SimpleQueue[int | ServableError | None] = queue.SimpleQueue()

    @property
    def ports(self) -> Sequence[int]:
        """The ports that are really open, `--port` first."""
        return tuple(self._ports)

    def start(self) -> None:
        """Bind the ports, begin to load, and open the ports when that is done.

        Returns once each model has its first version, has failed to load once, or has none to load;
        with `--open_ports=at_once` without waiting for that.

        Raises:
            ServableError: A port is taken, the configuration is refused, or every model has failed
                to load for good.
        """
        self._startup = startup = self._begin()
        if self._flags.open_ports == OPEN_WHEN_LOADED:
            startup.wait_until_tried(self._is_over)
            if self._failure is not None:
                raise self._failure
            if not self._is_over():
                self._open_ports()

    def _begin(self) -> StartupWatch:
        """Do everything that a start does except for waiting."""
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

        The first SIGTERM or SIGINT stops accepting, lets requests in flight finish, unloads and
        returns; a second one ends the process at once. SIGHUP has the configuration read again,
        unless the server is compatible. For the main thread only.

        Args:
            on_open: Called on a thread of its own once the ports are open and each model has its
                first version, has failed to load once, or has none to load.

        Raises:
            ServableError: The start failed, also later: when every model has failed to load for
                good.
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
            # Not on this thread either: a reload may take a while.
            threading.Thread(target=self._read_again, name="hang-up", daemon=True).start()
        if isinstance(happened, ServableError):
            raise happened
        # Not on this thread, which has to see the second signal.
        threading.Thread(target=self._stop_and_tell, name="shutdown", daemon=True).start()
        while self._happened.get() is not None:
            pass

    def stop(self) -> bool:
        """Drain and unload, within the time that the flags grant.

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
            _log.warning("Requests in flight did not finish in time and were cut off")
        self._core.stop(min(_UNLOAD_SECONDS, max(1.0, deadline - time.monotonic())))
        return drained

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
        """Put in force what files say now; nothing is drained."""
        _log.info("SIGHUP: reading the configuration again")
        if self._flags.model_config_file:
            self._apply_model_config(is_asked=True)
        for files in self._credentials:
            # What two looks in a row have found counts.
            files.look()
            files.look()

    def _apply_model_config(self, *, is_asked: bool = False) -> None:
        """Put in force what the configuration file says, and wait for what that brings about.

        Args:
            is_asked: Whether somebody wants it in force, whatever was done since by other ways.
        """
        try:
            with self._applying:
                models = self._read_model_config()
                permissions = self._permissions(models)
                self._core.permit(permissions)
                # Beside the administration API, a file that says nothing new changes nothing.
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
        """Wait for a change, unless the file is written anew: the new file may take away what never comes."""

        def has_changed() -> bool:
            try:
                return self._read_model_config() != models
            except ConfigError:  # reported once this is over
                return False

        period = self._flags.model_config_file_poll_wait_seconds
        change.wait_unless_cancelled(has_changed, period if period > 0 else _LOOK_SECONDS)

    @contextlib.contextmanager
    def _writing_places(self) -> Iterator[None]:
        """Write down where in the file is what is refused only when it is to be put in force."""
        try:
            yield
        except (ModelConfigError, RefusedLabelError) as error:
            if self._flags.model_config_file:
                write_place(self._flags.model_config_file, error.index, error)
            raise

    def _read_model_config(self) -> tuple[ModelConfig, ...] | None:
        return read_model_config_file(self._flags.model_config_file, self._rules)

    def _permissions(self, models: Sequence[ModelConfig] | None) -> Permissions:
        """What is allowed now that the configuration file, or the start, names these models."""
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
                "--model_config_file=%s is treated like a request, which can bring neither Python code nor "
                "further remote stores: %s",
                shown(flags.model_config_file),
                problem,
            )
        self._config_file_problem = problem
        return permissions

    def rehearse(self) -> None:
        """Do what a start does up to the first load, and take it back; for a server of its own.

        Raises:
            ServableError: What would end the start.
        """
        with _naming_the_server():
            self._server.start()
        try:
            self._core.check(self._models)
        finally:
            self._requests.close()
            self._server.drain(0.0)

    def summary(self) -> StartSummary:
        """What has come of the start, for people."""
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
        """The document that REST answers to a question for the metadata of a version, without counting a request.

        Raises:
            ServableError: There is no such version, or none that serves.
        """
        return self._server.metadata(model, version)

    def _open_ports(self) -> None:
        with _naming_the_server():
            self._server.open()
        for endpoint in self._options.endpoints:
            if endpoint.offer != "administration":
                _log.info("Listening on %s", _shown(endpoint))
        flags = self._flags
        # The lines that tools wait for.
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
    """Begin what is wrong with an address with the words of TensorFlow Serving."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"Failed to BuildAndStart gRPC server: {error.message}") from error


def _shown(endpoint: Endpoint) -> str:
    return endpoint.address + (" with TLS" if endpoint.tls else "")
