"""Packages of AOTInductor: machine code that PyTorch compiled for a module."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from servable.errors import Code, InvalidInputError, LoadError
from servable.signature import Signature

_CHECK = "AOTI_RUNTIME_CHECK_INPUTS"
"""The variable with which a package compares shapes and strides with those that it was compiled for.

Its first run reads the variable. The code takes them for granted otherwise, and reads other memory if they differ.
"""


class CompiledPackage:
    """A package as a function of tensors.

    It is opened with checks first, for runs on zeros, and without them when these have passed: the checks refuse
    batches of one row, whatever range the batch was compiled for.
    """

    def __init__(self, torch: Any, file: Path) -> None:
        """Open a package with checks.

        Args:
            torch: PyTorch.
            file: The package.

        Raises:
            RuntimeError: It cannot be opened.
        """
        self._torch = torch
        self._file = str(file)
        self._batched: list[int] = []
        os.environ[_CHECK] = "1"
        self._run = torch._inductor.aoti_load_package(self._file)

    def accept(self, signature: Signature) -> None:
        """Open it again without checks, after runs that had the shapes of a signature.

        Raises:
            LoadError: A wrong size could not be detected.
        """
        for name, spec in signature.inputs.items():
            if None in (spec.shape or ())[1:]:
                raise LoadError(
                    f'input "{name}" has a free axis besides the batch, want fixed sizes: a package of AOTInductor '
                    "does not check sizes",
                    code=Code.INVALID_ARGUMENT,
                    may_pass=False,
                )
        self._batched = [
            place
            for place, spec in enumerate(signature.inputs.values())
            if spec.shape and spec.shape[0] is None
        ]
        os.environ[_CHECK] = "0"
        self._run = self._torch._inductor.aoti_load_package(self._file)

    def __call__(self, *tensors: Any) -> Any:
        """Run it.

        Args:
            tensors: The inputs in order, contiguous.

        Raises:
            InvalidInputError: The batches of the inputs differ.
        """
        sizes = {tensors[place].shape[0] for place in self._batched}
        if len(sizes) > 1:
            found = " and ".join(map(str, sorted(sizes)))
            raise InvalidInputError(f"got inputs of {found} rows, want as many rows in each")
        return self._run(*tensors)
