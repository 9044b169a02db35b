"""Refuses versions whose code would run in the process that reads them."""

from __future__ import annotations

import os

from servable.errors import Code, LoadError

RUNS_ANY_CODE = "reading it runs any code that its author chose"
"""The reason for pickles."""


def untrusted(path: str | os.PathLike[str], found: str, reason: str = RUNS_ANY_CODE) -> LoadError:
    """The error for a version that the configuration of its model does not trust.

    Args:
        path: The version or its file.
        found: What it is, such as `a pickled object`.
        reason: Why it needs trust.
    """
    return LoadError(
        f"{os.fspath(path)} is {found}: {reason}. Save the model with `servable.save`; or set "
        "`servable_options { trusted: true }`, to read it in a worker process",
        code=Code.PERMISSION_DENIED,
        may_pass=False,
    )
