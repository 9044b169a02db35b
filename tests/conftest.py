"""Fixtures for tests that need models or a running server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import extension
from support import models, outside_clients, stand_in
from support.grpc_client import GrpcClient
from support.server_process import ServerProcess, StartServer, model_config
from support.skipping import skip_comparison

UNIT_TESTS = Path(__file__).parent / "unit"

_why_no_extension = extension.why_unusable()
if _why_no_extension is not None:
    # Before any import of the extension. Tests that need the real one are refused below.
    stand_in.install()


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Refuse to run tests with an outdated extension."""
    if _why_no_extension is None or not isinstance(collector, pytest.Module):
        return
    if not collector.path.is_relative_to(UNIT_TESTS):
        raise pytest.UsageError(_why_no_extension)


@pytest.fixture(scope="session")
def real_extension() -> None:
    """For unit tests that need the real extension: skips them if it is unusable."""
    if _why_no_extension is not None:
        pytest.skip(_why_no_extension)


@pytest.fixture(scope="session")
def model_cache(request: pytest.FixtureRequest) -> Path:
    """A directory that survives the test run."""
    cache = request.config.cache
    assert cache is not None
    return cache.mkdir("models")


@pytest.fixture(scope="session")
def demo_models(model_cache: Path) -> Path:
    """turtle3, turtle5, half_plus_two and half_plus_two_tf2."""
    return models.exported(models.DEMO_EXPORT, model_cache)


@pytest.fixture(scope="session")
def runtime_models(model_cache: Path) -> Path:
    """One model for each kind of SavedModel."""
    return models.exported(models.RUNTIME_EXPORT, model_cache)


@pytest.fixture(scope="session")
def half_plus_two_version(demo_models: Path) -> Path:
    """A version directory to copy from, see `models.add_version`."""
    return demo_models / "half_plus_two/1"


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers and ends them after the test: `start_server({name: base_path}, *flags)`.

    Failed loads are not retried, and the file system is polled every second.
    """
    started: list[ServerProcess] = []

    def start(
        served: Mapping[str, Path], *flags: str, environment: Mapping[str, str] | None = None
    ) -> ServerProcess:
        config = tmp_path / f"models-{len(started)}.config"
        config.write_text(model_config(served))
        server = ServerProcess(
            [
                f"--model_config_file={config}",
                "--max_num_load_retries=0",
                "--file_system_poll_wait_seconds=1",
                *flags,
            ],
            directory=tmp_path,
            environment=environment,
        )
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def server(
    demo_models: Path, runtime_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """One server of all models, for tests that only send requests."""
    directory = tmp_path_factory.mktemp("server")
    served = {
        path.name: path
        for root in (demo_models, runtime_models)
        for path in root.iterdir()
        if path.is_dir()
    }
    config = directory / "models.config"
    config.write_text(model_config(served))
    with ServerProcess([f"--model_config_file={config}"], directory=directory) as process:
        process.wait_until_available(*served)
        yield process
        assert process.is_running, process.log


@pytest.fixture(scope="session")
def grpc_client() -> Iterator[GrpcClient]:
    """A client in a separate process."""
    client = GrpcClient()
    yield client
    client.close()


@pytest.fixture(scope="session")
def clients_python() -> outside_clients.Python:
    """The environment with clients of other projects: `clients_python.run(program, port)`."""
    if not outside_clients.PYTHON.exists():
        skip_comparison(f"no {outside_clients.PYTHON}; `make .venv/stamps/clients` installs it")
    return outside_clients.Python(outside_clients.PYTHON)
