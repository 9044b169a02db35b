"""Run the server, with a thread that holds the interpreter's lock when told: `hold_interpreter_lock.py FLAG ...`.

Each line of the standard input is a number of seconds. A thread holds the lock for that long, asleep, so that no Python
code of the process runs meanwhile. It prints a line before that, and another one after it.
"""

from __future__ import annotations

import ctypes
import sys
import threading

from servable.cli import main


def hold_when_told() -> None:
    """Hold the lock for each line."""
    # Functions of a `PyDLL` are called without releasing the lock.
    sleep = ctypes.PyDLL(None).sleep
    for line in sys.stdin:
        print("held", flush=True)
        sleep(int(line))
        print("released", flush=True)


if __name__ == "__main__":
    threading.Thread(target=hold_when_told, daemon=True).start()
    sys.exit(main())
