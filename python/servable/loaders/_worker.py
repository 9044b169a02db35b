"""The program of a worker process: loads one version for a server, and runs it.

Started by `servable.loaders._worker_pool` as `python -m servable.loaders._worker NAME CONTROL SLOT...`: the name of the
version, for lists of processes, and descriptors of sockets. What to load is read from the standard input. The process
ends when the server closes the connection or ends for any reason.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from servable.errors import Code, ServableError
from servable.lifecycle._loader import Loader
from servable.loaders._worker_pool import FAILED, LOADED, send_answer

if TYPE_CHECKING:
    from servable._server.border.gateway import Servable

_PR_SET_PDEATHSIG = 1

_CLOSE_SECONDS = 5.0
"""How long a model may take to close when the server is gone, in seconds."""


def main(arguments: list[str]) -> None:
    """Load the version, report how that went, and run requests until the connection ends."""
    descriptor, *slots = map(int, arguments[1:])
    control = socket.socket(fileno=descriptor)
    _end_with_the_server(control)
    # Signals to the process group are handled by the server, which finishes requests in flight.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.path[:] = pickle.load(sys.stdin.buffer)
    make_loader: Callable[[], Loader] = pickle.load(sys.stdin.buffer)
    _close_standard_input()
    try:
        loader = make_loader()
        loader.load()
    except BaseException as error:  # `sys.exit` in a model fails the load, as in the server
        send_answer(control, FAILED, json.dumps(_error_document(error)).encode())
        return
    servable = cast("Servable", loader.servable)
    send_answer(control, LOADED, servable.description())
    if slots:
        servable.serve(slots)
        loader.unload()


def _error_document(error: BaseException) -> dict[str, object]:
    if isinstance(error, ServableError):
        return {"code": int(error.code), "message": error.message, "may_pass": error.may_pass}
    message = f"{type(error).__name__}: {error}"
    return {"code": int(Code.INTERNAL), "message": message, "may_pass": True}


def _close_standard_input() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _end_with_the_server(control: socket.socket) -> None:
    """Ensure that the worker does not outlive its server, however busy it is."""
    if sys.platform == "linux":
        # Sent when the thread that started this process ends, which lives as long as the worker.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        disconnected = select.poll()
        disconnected.register(control, 0)
        disconnected.poll()
        # The main thread detects it too, and gets some time to close the model.
        threading.Event().wait(_CLOSE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="server-watch", daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1:])
