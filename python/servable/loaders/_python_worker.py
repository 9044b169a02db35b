"""The program of a worker process: runs one Python servable for a server.

Started by `servable.loaders._python_workers` as `python -m servable.loaders._python_worker FD PATH`. It ends when the
server closes the connection or ends for any reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from servable.errors import Code, ServableError
from servable.loaders._python_channel import Channel, packed
from servable.loaders._python_model import PythonModel, load_python_model

_PR_SET_PDEATHSIG = 1

_CLOSE_SECONDS = 5.0
"""How long a model may take to close when the server is gone, in seconds."""


def main(arguments: list[str]) -> None:
    """Load the model, report its signatures, and run batches until the connection ends."""
    connection = socket.socket(fileno=int(arguments[0]))
    _end_with_the_server(connection)
    # Signals to the process group are handled by the server, which finishes requests in flight.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(connection)
    with contextlib.suppress(EOFError, ConnectionError):
        sys.path[:] = channel.receive()
        try:
            model = load_python_model(Path(arguments[1]))
        except ServableError as error:
            channel.send(("failed", int(error.code), error.message, error.may_pass))
            return
        with contextlib.closing(model):
            channel.send(("loaded", model.signatures, model.is_repeatable))
            while True:
                channel.send_packed(_answer(model, *channel.receive()))


def _answer(model: PythonModel, *call: Any) -> list[memoryview]:
    """Run a batch, and encode the answer: pickling outputs may run the model's code, too."""
    try:
        try:
            outputs = model.run(*call)
            return packed(("ran", dict(outputs) if hasattr(outputs, "keys") else outputs))
        except ServableError as error:
            return packed(("failed", int(error.code), error.message))
    except BaseException as error:  # `sys.exit` in a model fails the request, as in the server
        traceback.print_exc()
        return packed(("failed", int(Code.INTERNAL), _told(error)))


def _told(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except BaseException:  # the model's exceptions contain the model's code, too
        return f"{name}: <exception str() failed>"


def _end_with_the_server(connection: socket.socket) -> None:
    """Ensure that the worker does not outlive its server, however busy it is."""
    if sys.platform == "linux":
        # Sent when the thread that started this process ends, which lives as long as the workers.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        hung_up = select.poll()
        hung_up.register(connection, 0)
        hung_up.poll()
        # The main thread detects it too, and gets some time to close the model.
        threading.Event().wait(_CLOSE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="server-watch", daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1:])
