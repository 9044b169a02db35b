"""`servable.client` against a real server: both protocols, blocking and asynchronous."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servable.client import AsyncClient, Class, Client, Retry, State
from servable.errors import (
    Code,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidInputError,
    NotFoundError,
    ServableError,
    UnavailableError,
    UnimplementedError,
)
from support.server_process import ServerProcess, StartServer

ml_dtypes = pytest.importorskip("ml_dtypes")  # comes with TensorFlow

PROTOCOLS = ("grpc", "rest")
ONLY_GRPC = ("float16", "bfloat16", "uint16", "complex64", "complex128")
ARRAYS = {
    "float32": np.array([[1.5, -0.0], [np.inf, 3e38]], np.float32),
    "float64": np.array([0.1, -1e300]),
    "int8": np.array([-128, 127], np.int8),
    "int16": np.array([-(2**15), 2**15 - 1], np.int16),
    "int32": np.array([-(2**31), 2**31 - 1], np.int32),
    "int64": np.array([-(2**63), 2**63 - 1]),
    "uint8": np.array([0, 255], np.uint8),
    "uint32": np.array([0, 2**32 - 1], np.uint32),
    "uint64": np.array([0, 2**64 - 1], np.uint64),
    "bool": np.array([[True, False]]),
    "bytes": np.array([[b"", b"a\0"], [b"\xff\xfe", "é".encode()]], object),
    "float16": np.array([1.5, -65504], np.float16),
    "bfloat16": np.array([1.5, -3e38], ml_dtypes.bfloat16),
    "uint16": np.array([0, 2**16 - 1], np.uint16),
    "complex64": np.array([1 + 2j], np.complex64),
    "complex128": np.array([1 - 2j]),
}


def address(server: ServerProcess, protocol: str) -> str:
    if protocol == "grpc":
        return f"127.0.0.1:{server.port}"
    return f"http://127.0.0.1:{server.rest_port}"


class Blocking:
    """An `AsyncClient` with the interface of `Client`, so that the same tests use both."""

    def __init__(self, where: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(where, **options)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute
        return lambda *args, **options: self._loop.run_until_complete(attribute(*args, **options))

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[Client, Blocking], ids=["blocking", "async"])
def client(
    request: pytest.FixtureRequest, protocol: str, server: ServerProcess
) -> Iterator[Client]:
    with request.param(address(server, protocol)) as client:
        yield client


class TestPredict:
    def test_plain_values_without_a_name(self, client: Client) -> None:
        prediction = client.predict("half_plus_two", [1.0, 2.0, 5.0])
        assert list(prediction) == ["y"]
        assert prediction.value.dtype == np.float32
        assert prediction.value.tolist() == [2.5, 3.0, 4.5]

    def test_a_version_and_a_filter(self, client: Client) -> None:
        inputs = {"numbers": [1.5], "counts": [2], "words": [["a", b"b"]]}
        prediction = client.predict("multiple", inputs, version=1, outputs=["joined", "twice"])
        assert prediction.version == 1
        assert {name: value.tolist() for name, value in prediction.items()} == {
            "joined": [b"ab"],
            "twice": [4],
        }

    @pytest.mark.parametrize("name", ARRAYS)
    def test_every_dtype_comes_back(self, name: str, client: Client, protocol: str) -> None:
        sent = ARRAYS[name]
        signature = "string" if name == "bytes" else name
        if protocol == "rest" and name in ONLY_GRPC:
            with pytest.raises(UnimplementedError, match=f"JSON cannot carry {name}; use grpc://"):
                client.predict("dtypes", {"x": sent}, signature=signature)
            return
        found = client.predict("dtypes", {"x": sent}, signature=signature)["y"]
        assert (found.dtype, found.shape) == (sent.dtype, sent.shape)
        assert found.tolist() == sent.tolist()
        assert (
            np.array_equal(np.signbit(found), np.signbit(sent)) if sent.dtype.kind == "f" else True
        )

    def test_a_scalar_and_an_empty_array(self, client: Client) -> None:
        assert client.predict("dtypes", 2.5, signature="float32").value.tolist() == 2.5
        assert client.predict("dtypes", [], signature="float32").value.tolist() == []
        assert client.predict("dtypes", "text", signature="string").value.tolist() == b"text"

    def test_sixteen_megabytes(self, server: ServerProcess) -> None:
        sent = np.arange(4_000_000, dtype=np.float32)
        with Client(address(server, "grpc")) as client:
            found = client.model("dtypes", signature="float32").predict(x=sent).value
        assert np.array_equal(found, sent)
        found += 1  # its memory is the caller's

    def test_a_model_without_inputs(self, server: ServerProcess) -> None:
        with Client(address(server, "grpc")) as client:
            counts = [client.predict("counter", {}, signature="raise") for _ in range(2)]
        assert int(counts[1].value) == int(counts[0].value) + 1


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda c: c.predict("none", [1.0]), NotFoundError, "Servable not found for request"),
            (
                lambda c: c.predict("half_plus_two", [1.0], version=7),
                NotFoundError,
                "Specific(half_plus_two, 7)",
            ),
            (
                lambda c: c.predict("half_plus_two", [1.0], label="new"),
                InvalidInputError,
                "label: new",
            ),
            (
                lambda c: c.predict("half_plus_two", [1.0], signature="other"),
                FailedPreconditionError,
                'asked for "other", there is',
            ),
            (
                lambda c: c.predict("half_plus_two", {"z": np.float32([1])}),
                InvalidInputError,
                'inputs of half_plus_two: got "z", want "x"',
            ),
            (
                lambda c: c.predict("half_plus_two", {"x": np.array([1.0])}),
                InvalidInputError,
                'input "x" of half_plus_two: got dtype float64, want float32',
            ),
            (
                lambda c: c.predict("half_plus_two", ["a"]),
                InvalidInputError,
                'input "x" of half_plus_two: got dtype bytes, want float32',
            ),
            (
                lambda c: c.predict("multiple", [1.0]),
                InvalidInputError,
                'got one value without a name, want "counts", "numbers", "words"',
            ),
            (
                lambda c: c.predict("failing", {"index": np.int32([3])}),
                InvalidInputError,
                "indices[0] = 3 is not in [0, 3)",
            ),
            (lambda c: c.status("none"), NotFoundError, "none"),
            (lambda c: c.metadata("none"), NotFoundError, "none"),
        ],
    )
    def test_each_has_a_class_and_names_the_cause(
        self,
        call: Callable[[Client], object],
        error: type[ServableError],
        message: str,
        client: Client,
    ) -> None:
        with pytest.raises(error) as raised:
            call(client)
        assert message in raised.value.message

    @pytest.mark.parametrize("code", sorted(set(Code) - {Code.OK, Code.UNAVAILABLE}))
    def test_the_codes_of_a_model_arrive(
        self, code: Code, protocol: str, python_server: ServerProcess
    ) -> None:
        with (
            Client(address(python_server, protocol), retry=Retry(attempts=1)) as client,
            pytest.raises(ServableError, match="as told") as raised,
        ):
            client.predict("faulty", [f"code {code.value}"])
        if protocol == "grpc":
            assert raised.value.code == code
        else:  # several codes share a status
            assert raised.value.code in {code, *SAME_STATUS.get(code, [])}

    def test_without_a_server_the_call_fails(self, protocol: str, server: ServerProcess) -> None:
        with ServerProcess([], directory=server.log_path.parent) as gone:
            gone.kill()
            where = address(gone, protocol)
        with (
            Client(where, retry=Retry(attempts=2, initial_pause_seconds=0.01)) as client,
            pytest.raises(UnavailableError),
        ):
            client.predict("half_plus_two", [1.0])


SAME_STATUS = {
    Code.FAILED_PRECONDITION: [Code.INVALID_ARGUMENT],
    Code.OUT_OF_RANGE: [Code.INVALID_ARGUMENT],
    Code.ALREADY_EXISTS: [Code.ABORTED],
    Code.UNKNOWN: [Code.INTERNAL],
    Code.DATA_LOSS: [Code.INTERNAL],
}


class TestDeadlines:
    def test_a_slow_model_is_not_waited_for(
        self, protocol: str, python_server: ServerProcess
    ) -> None:
        for kind in (Client, Blocking):
            with kind(address(python_server, protocol)) as client:
                client.predict("moody", ["nothing"])
                start = time.monotonic()
                with pytest.raises(DeadlineExceededError):
                    client.predict("moody", ["sleep 1.5"], timeout=0.2)
                assert time.monotonic() - start < 1.4

    def test_the_time_holds_for_all_attempts_together(self, protocol: str) -> None:
        retry = Retry(attempts=1000, initial_pause_seconds=0.05, factor=1)
        with Client(UNUSED[protocol], retry=retry, timeout=0.5) as client:
            start = time.monotonic()
            with pytest.raises((UnavailableError, DeadlineExceededError)):
                client.status("m")
            assert 0.3 < time.monotonic() - start < 5


UNUSED = {"grpc": "127.0.0.1:1", "rest": "http://127.0.0.1:1"}  # port 1 has no listener


def test_cancelling_a_task_cancels_its_call(protocol: str, python_server: ServerProcess) -> None:
    async def cancel() -> float:
        async with AsyncClient(address(python_server, protocol)) as client:
            await client.predict("moody", ["nothing"])
            task = asyncio.create_task(client.predict("moody", ["sleep 1.5"]))
            await asyncio.sleep(0.1)
            start = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await client.predict("echo", [1.0], signature="float32")
            return time.monotonic() - start

    assert asyncio.run(cancel()) < 1.3


def test_many_calls_at_once(protocol: str, server: ServerProcess) -> None:
    async def ask() -> list[float]:
        async with AsyncClient(address(server, protocol)) as client:
            model = client.model("half_plus_two")
            answers = await asyncio.gather(*[model.predict([float(i)]) for i in range(100)])
        return [float(answer.value[0]) for answer in answers]

    wanted = [i / 2 + 2 for i in range(100)]
    assert asyncio.run(ask()) == wanted

    found: dict[int, float] = {}
    with Client(address(server, protocol)) as client:

        def work(first: int) -> None:
            for i in range(first, 100, 8):
                found[i] = float(client.predict("half_plus_two", [float(i)]).value[0])

        threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found[i] for i in range(100)] == wanted


def test_a_restart_is_not_noticed(
    protocol: str, start_server: StartServer, half_plus_two_version: Path
) -> None:
    server = start_server({"m": half_plus_two_version.parent})
    server.wait_until_available("m")
    patient = Retry(attempts=100)  # a loaded machine may start a server slowly
    with Client(address(server, protocol), retry=patient) as client:
        assert client.predict("m", [1.0]).value.tolist() == [2.5]
        server.kill()
        ports = (f"--port={server.port}", f"--rest_api_port={server.rest_port}")
        timer = threading.Timer(
            0.3, lambda: start_server({"m": half_plus_two_version.parent}, *ports)
        )
        timer.start()
        assert client.predict("m", [1.0]).value.tolist() == [2.5]
        timer.join()


class TestOtherCalls:
    def test_classify_and_regress(self, client: Client) -> None:
        model, examples = "half_plus_two", [{"x": 1.0}, {"x": np.float32([3])}]
        classes = client.classify(model, examples, signature="classify_x_to_y")
        assert classes == [[Class("", 2.5)], [Class("", 3.5)]]
        shared = {"context": {"x": 5.0}, "signature": "regress_x_to_y"}
        values = client.regress(model, [*examples, {}], **shared)
        assert values.dtype == np.float32
        assert values.tolist() == [2.5, 3.5, 4.5]

    def test_multi_inference(self, client: Client, protocol: str) -> None:
        model, examples = "half_plus_two", [{"x": 1.0}]
        tasks = [("regress", "regress_x_to_y"), ("classify", "classify_x_to_y")]
        if protocol == "rest":
            with pytest.raises(UnimplementedError, match="use grpc://"):
                client.multi_inference(model, examples, tasks)
            return
        values, classes = client.multi_inference(model, examples, tasks)
        assert isinstance(values, np.ndarray)
        assert values.tolist() == [2.5]
        assert classes == [[Class("", 2.5)]]
        with pytest.raises(InvalidInputError, match="got method 'predict', want classify or"):
            client.multi_inference(model, examples, [("predict", "")])

    def test_metadata_and_status(self, client: Client) -> None:
        metadata = client.metadata("half_plus_two")
        assert (metadata.name, metadata.version) == ("half_plus_two", 1)
        assert str(metadata.signature().inputs["x"]).startswith("float32")
        assert [(s.version, s.state, s.code) for s in client.status("half_plus_two")] == [
            (1, State.AVAILABLE, Code.OK)
        ]

    def test_waiting_says_what_is_missing(self, client: Client) -> None:
        client.wait_until_ready("half_plus_two", "turtle3")
        client.wait_until_ready()
        with pytest.raises(DeadlineExceededError, match=r"^none is not available: .*none"):
            client.wait_until_ready("none", timeout=0.3)

    def test_a_configuration_is_reloaded(
        self, start_server: StartServer, half_plus_two_version: Path
    ) -> None:
        server = start_server({"m": half_plus_two_version.parent})
        server.wait_until_available("m")
        with Client(address(server, "grpc")) as client:
            client.reload_config({'a "second" one': half_plus_two_version.parent})
            assert client.predict('a "second" one', [1.0]).value.tolist() == [2.5]
            with pytest.raises(InvalidInputError, match=r"^configuration: "):
                client.reload_config("model_config_list {")
            with pytest.raises(ServableError, match="Illegal setting neither"):
                client.reload_config('model_config_list { config { name: "m" } }')
        with (
            Client(address(server, "rest")) as client,
            pytest.raises(UnimplementedError, match="use grpc://"),
        ):
            client.reload_config({})
