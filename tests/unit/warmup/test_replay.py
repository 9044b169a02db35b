from __future__ import annotations

from pathlib import Path

import pytest

from servable.errors import BackendError, Code, InvalidInputError, ServableError
from servable.warmup import WARM_UP_FILE, WarmUpLoader, WarmUpOptions, write_records


class FakeServable:
    """Records its warm-up requests."""

    def __init__(self) -> None:
        self.runs: list[tuple[bytes, int, bool]] = []
        self.zeros: list[int] = []

    def warm_up(self, prediction_log: bytes, iterations: int, check_method_names: bool) -> None:
        self.runs.append((prediction_log, iterations, check_method_names))
        if prediction_log == b"no record":
            raise ValueError("not a record")
        if prediction_log == b"fails":
            raise BackendError("it fails")

    def warm_up_with_zeros(self, iterations: int) -> dict[str, str | None]:
        self.zeros.append(iterations)
        return {"good": None, "bad": "INTERNAL: it fails"}

    def wait_until_idle(self, timeout_seconds: float | None = None) -> bool:
        return True


class FakeLoader:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.servable = FakeServable()

    def estimate_resources(self) -> int:
        return 7

    def load(self) -> None:
        self.calls.append("load")

    def unload(self) -> None:
        self.calls.append("unload")


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version directory without a file of requests."""
    (tmp_path / WARM_UP_FILE).parent.mkdir()
    return tmp_path


def load(version: Path, options: WarmUpOptions) -> FakeLoader:
    fake = FakeLoader()
    loader = WarmUpLoader(fake, str(version), options)
    assert loader.estimate_resources() == 7
    loader.load()
    assert loader.servable is fake.servable
    return fake


def write(version: Path, *records: bytes) -> str:
    path = str(version / WARM_UP_FILE)
    write_records(path, records)
    return path


def test_records_are_run_in_order_with_the_options(version: Path) -> None:
    write(version, b"a", b"b")
    options = WarmUpOptions(iterations=3, check_method_names=True, automatic=True)
    loader = load(version, options)
    assert loader.servable.runs == [(b"a", 3, True), (b"b", 3, True)]
    assert loader.servable.zeros == []
    assert loader.calls == ["load"]


def test_zeros_are_run_where_there_are_no_records_and_their_faults_do_not_count(
    version: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "servable")
    assert load(version, WarmUpOptions(iterations=2, automatic=True)).servable.zeros == [2]
    assert f"Signature bad of {version} was not warmed up: INTERNAL: it fails" in caplog.messages
    assert load(version, WarmUpOptions()).servable.zeros == []


def test_records_are_ignored_where_warm_up_is_off(version: Path) -> None:
    write(version, b"fails")
    assert load(version, WarmUpOptions(recorded=False)).servable.runs == []


@pytest.mark.parametrize(
    ("record", "code", "text"),
    [
        (b"fails", Code.INTERNAL, "it fails"),
        (
            b"no record",
            Code.INVALID_ARGUMENT,
            "Failed to parse warmup record: no record from {0}",
        ),
    ],
)
def test_a_record_that_fails_undoes_the_load(
    version: Path, record: bytes, code: Code, text: str
) -> None:
    path = write(version, b"good", record, b"never run")
    fake = FakeLoader()
    loader = WarmUpLoader(fake, str(version), WarmUpOptions())
    with pytest.raises(ServableError) as caught:
        loader.load()
    assert (caught.value.code, caught.value.message) == (
        code,
        f"{text.format(path)} (record 2 of {path})",
    )
    assert fake.calls == ["load", "unload"]
    assert [run[0] for run in fake.servable.runs] == [b"good", record]


def test_a_damaged_record_is_named(version: Path) -> None:
    path = Path(write(version, b"a", b"b", b"c"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ServableError) as caught:
        load(version, WarmUpOptions())
    assert caught.value.code is Code.DATA_LOSS
    assert caught.value.message.startswith("truncated record at 34")
    assert caught.value.message.endswith(f" (record 3 of {path})")


def test_a_damaged_file_is_data_loss(version: Path) -> None:
    (version / WARM_UP_FILE).write_bytes(b"this is no TFRecord file")
    with pytest.raises(ServableError) as caught:
        load(version, WarmUpOptions())
    assert caught.value.code is Code.DATA_LOSS
    assert caught.value.message == (
        "corrupted record at 0 (Is this even a TFRecord file?). "
        f"Please verify your warmup data is in TFRecord format. (record 1 of {version / WARM_UP_FILE})"
    )


def test_a_thousand_records_are_fine_and_one_more_is_run_but_too_many(version: Path) -> None:
    write(version, *[b"a"] * 1000)
    assert len(load(version, WarmUpOptions()).servable.runs) == 1000
    path = write(version, *[b"a"] * 1001)
    with pytest.raises(InvalidInputError) as caught:
        load(version, WarmUpOptions())
    assert caught.value.message == (
        f"Number of warmup records exceeds the maximum (1000) at {path}"
    )
