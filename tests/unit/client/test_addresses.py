"""Addresses of servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from servable.client import Client, Retry, Tls
from servable.client._options import Address, Deadline
from servable.errors import ConfigError, DeadlineExceededError
from servable.testing import FakeClock


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:8500", Address(False, False, "localhost:8500")),
        ("localhost", Address(False, False, "localhost:8500")),
        ("[::1]:9000", Address(False, False, "[::1]:9000")),
        ("grpc://m", Address(False, False, "m:8500")),
        ("grpcs://m:443", Address(False, True, "m:443")),
        ("http://m:8501/", Address(True, False, "m:8501")),
        ("https://m/team/models/", Address(True, True, "m", "", "/team/models")),
        ("unix:/run/s.sock", Address(False, False, "unix:/run/s.sock", "/run/s.sock")),
        ("unix:///run/s.sock", Address(False, False, "unix:/run/s.sock", "/run/s.sock")),
        ("http+unix://%2Frun%2Fs.sock", Address(True, False, "localhost", "/run/s.sock")),
    ],
)
def test_addresses_are_read_as_people_write_them(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("ftp://m", "got ftp://, want grpc://"),
        ("", "want host:port"),
        ("grpc://m/path", "want host:port"),
        ("m:99999", "out of range"),
        ("m:http", "could not be cast|invalid"),
        ("http://user:secret@m", "want host:port"),
        ("http://m?x=1", "want host:port"),
        ("unix:", "path of a socket"),
        ("http+unix://", "path of a socket"),
    ],
)
def test_other_addresses_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Client(text)


def test_certificates_are_for_addresses_with_tls(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="want grpcs:// or https://"):
        Client("localhost", tls=Tls())
    with pytest.raises(ConfigError, match=r"no file .*/ca\.pem"):
        Tls(ca=tmp_path / "ca.pem")
    with pytest.raises(ConfigError, match="want both"):
        Tls(key=tmp_path / "key.pem")


@pytest.mark.parametrize("value", ["secret\nx-other: 1", "sécret"])
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(value: str) -> None:
    with pytest.raises(ConfigError, match="'authorization'") as refused:
        Client("localhost", api_key=value)
    assert "cret" not in str(refused.value)


def test_pauses_grow_to_a_limit_and_half_of_each_is_chance() -> None:
    retry = Retry(attempts=5, initial_pause_seconds=1, factor=3, longest_pause_seconds=5)
    assert [retry.pause_seconds(attempt, lambda: 1.0) for attempt in range(1, 6)] == [
        *(1, 3, 5, 5),
        None,
    ]
    assert retry.pause_seconds(2, lambda: 0.0) == 1.5
    assert Retry(attempts=1).pause_seconds(1) is None


def test_a_deadline_counts_down_and_ends() -> None:
    clock = FakeClock(100)
    deadline = Deadline(2.5, clock)
    clock.now += 1
    assert deadline.remaining() == 1.5
    assert deadline.leaves(1.4)
    assert not deadline.leaves(1.5)
    clock.now += 1.5
    with pytest.raises(DeadlineExceededError, match=r"no answer within 2\.5 seconds"):
        deadline.remaining()
    assert Deadline(None, clock).remaining() is None
