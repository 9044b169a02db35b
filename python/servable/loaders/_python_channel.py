"""Messages between the server and a worker process: pickled objects, with arrays in their memory layout.

A message is a frame of lengths, a pickle, and the out-of-band buffers of pickle protocol 5. Both ends are ours, and the
socket cannot be reached from outside.
"""

from __future__ import annotations

import math
import pickle
import socket
import struct
import time
from typing import Any

_LENGTH = struct.Struct("<Q")
_MAX_PARTS = 512
"""The number of parts that every system accepts in a system call."""


def packed(message: object) -> list[memoryview]:
    """Encode a message; raises the exceptions of pickling its objects."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(pickled), *(buffer.raw() for buffer in buffers)]
    lengths = [_LENGTH.pack(part.nbytes) for part in parts]
    return [memoryview(_LENGTH.pack(len(parts)) + b"".join(lengths)), *parts]


class Channel:
    """One end of a connection; used by one thread at a time."""

    def __init__(self, connection: socket.socket) -> None:
        """Take over a connected stream socket."""
        self._socket = connection

    def send(self, message: object, deadline: float = math.inf) -> None:
        """Send a message.

        Raises:
            TimeoutError: The peer did not read it before the deadline (`time.monotonic()`).
            OSError: The peer is gone.
        """
        self.send_packed(packed(message), deadline)

    def send_packed(self, parts: list[memoryview], deadline: float = math.inf) -> None:
        """Send the result of `packed`; raises as `send` does."""
        unsent = list(parts)
        while unsent:
            self._limit(deadline)
            sent = self._socket.sendmsg(unsent[:_MAX_PARTS])
            while unsent and sent >= unsent[0].nbytes:
                sent -= unsent.pop(0).nbytes
            if sent:
                unsent[0] = unsent[0][sent:]

    def receive(self, deadline: float = math.inf) -> Any:
        """Wait for a message; arrays in it are read-only.

        Raises:
            EOFError: The peer is gone.
            TimeoutError: No message arrived before the deadline (`time.monotonic()`).
            OSError: The connection broke.
        """
        (count,) = _LENGTH.unpack(self._take(_LENGTH.size, deadline))
        lengths = self._take(count * _LENGTH.size, deadline)
        pickled, *buffers = [self._take(n, deadline) for (n,) in _LENGTH.iter_unpack(lengths)]
        return pickle.loads(pickled, buffers=[buffer.toreadonly() for buffer in buffers])

    def close(self) -> None:
        """Close this end; the peer then reads the end of the stream."""
        self._socket.close()

    def _take(self, length: int, deadline: float) -> memoryview:
        data = memoryview(bytearray(length))
        taken = 0
        while taken < length:
            self._limit(deadline)
            received = self._socket.recv_into(data[taken:])
            if received == 0:
                raise EOFError
            taken += received
        return data

    def _limit(self, deadline: float) -> None:
        if deadline == math.inf:
            if self._socket.gettimeout() is not None:
                self._socket.settimeout(None)
        else:
            # A timeout of 0 would not wait at all, and fail with another error.
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-6))
