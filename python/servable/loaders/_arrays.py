"""Conversion between tensors of the border and NumPy arrays.

The only module that needs NumPy. It is imported when the first Python servable is loaded, or by `servable.batching`.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from servable.errors import BackendError, Code, LoadError, ServableError
from servable.signature import DATA_TYPES, Signature, TensorSpec

try:
    import numpy as np
except ImportError as error:
    raise LoadError(
        "NumPy is not installed, and Python servables need it; install it with `pip install numpy`",
        code=Code.FAILED_PRECONDITION,
    ) from error

_log = logging.getLogger(__name__)

_NUMBERS = "biufcV"
"""The kinds of numeric dtypes; NumPy treats bfloat16 as void."""
_BROADER = {"b": "b", "i": "biu", "u": "biu", "f": "biuf", "V": "biuf", "c": "biufc"}
"""For each kind, the kinds whose values it can represent."""
_BYTES = DATA_TYPES["bytes"]
_BFLOAT16 = DATA_TYPES["bfloat16"]

Arrays = Mapping[str, Any]
"""NumPy arrays by name."""


class Run(Protocol):
    """Runs one batch of a signature on arrays."""

    def __call__(self, signature_name: str, inputs: Arrays, deadline: float) -> Any:
        """Return all outputs of the signature, as arrays by name; the caller checks them.

        Args:
            signature_name: Which signature.
            inputs: One read-only array for each of its inputs.
            deadline: The caller's deadline, in seconds on `time.monotonic()`; may be infinite.
        """


def for_border(
    name: str, signatures: Mapping[str, Signature], run: Run
) -> Callable[[str, dict[str, Any], float | None], dict[str, tuple[int, tuple[int, ...], Any]]]:
    """The function for `Servable.from_python`, from one that runs on arrays.

    Args:
        name: The servable id, for messages.
        signatures: The servable's signatures.
        run: Runs one batch.
    """
    if any(spec.dtype == "bfloat16" for s in signatures.values() for spec in s.inputs.values()):
        _import_ml_dtypes()

    def run_lent(
        signature_name: str, inputs: dict[str, Any], timeout: float | None
    ) -> dict[str, tuple[int, tuple[int, ...], Any]]:
        signature = signatures[signature_name]
        specs = signature.inputs
        arrays = {alias: array_of(lent, specs[alias].data_type) for alias, lent in inputs.items()}
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        try:
            outputs = run(signature_name, arrays, deadline)
        except ServableError:
            raise
        except BaseException:  # `sys.exit` in a model fails the request; the border converts it
            _log.exception("%s failed to run signature %s", name, signature_name)
            raise
        if not isinstance(outputs, Mapping):
            found = type(outputs).__name__
            raise BackendError(f"outputs of {name}: got {found}, want a dict of arrays by name")
        return {
            alias: elements_of(
                f'output "{alias}" of {name}',
                _cast(value, signature.outputs[alias]) if alias in signature.outputs else value,
            )
            for alias, value in outputs.items()
        }

    return run_lent


def array_of(lent: Any, data_type: int) -> Any:
    """A lent tensor as a read-only array of the dtype with this number."""
    if data_type == _BYTES:
        shape, elements = lent
        array = np.empty(len(elements), object)
        array[:] = elements
        array = array.reshape(shape)
        array.flags.writeable = False
        return array
    array = np.asarray(lent)
    return array.view(_import_ml_dtypes().bfloat16) if data_type == _BFLOAT16 else array


def _cast(value: Any, spec: TensorSpec) -> Any:
    """Convert an output to its declared dtype, if NumPy calls that cast safe; errors are reported elsewhere.

    Plain Python values have no dtype, and are converted to any dtype that preserves them.
    """
    array = np.asarray(value)
    if spec.dtype in ("bytes", array.dtype.name) or array.dtype.kind not in _NUMBERS:
        return array
    wanted = np.dtype(_import_ml_dtypes().bfloat16 if spec.dtype == "bfloat16" else spec.dtype)
    if np.can_cast(array.dtype, wanted, "safe"):
        return array.astype(wanted)
    is_plain = not hasattr(value, "__array__")
    return array.astype(wanted) if is_plain and _keeps_values(array, wanted) else array


def _keeps_values(array: Any, wanted: Any) -> bool:
    """Whether a conversion preserves Python's numbers, except for the rounding of floats."""
    if array.size == 0:
        return True
    if array.dtype.kind not in _BROADER[wanted.kind]:
        return False
    with np.errstate(all="ignore"):
        made = array.astype(wanted)
    if wanted.kind in "iu":
        return bool((made == array).all())
    return bool((np.isfinite(made) == np.isfinite(array)).all())


def elements_of(what: str, value: Any) -> tuple[int, tuple[int, ...], Any]:
    """An array in the border's form: the number of its dtype, its shape, and its elements.

    Args:
        what: The name of the array, for messages.
        value: The array, or a value that NumPy converts.

    Raises:
        BackendError: Its dtype is not supported.
    """
    array = np.asarray(value)
    dtype = array.dtype
    if dtype.kind in "OSU":
        strings = [_bytes(what, element) for element in array.reshape(-1).tolist()]
        return _BYTES, array.shape, strings
    number = DATA_TYPES.get(dtype.name)
    if number is None:
        raise BackendError(f"{what}: got dtype {dtype}, want one of {', '.join(DATA_TYPES)}")
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    if not array.flags.c_contiguous:
        array = array.copy(order="C")
    if dtype.name == "bfloat16":
        array = array.view("V2")
    return number, array.shape, array


def _bytes(what: str, element: Any) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        return element.encode()
    raise BackendError(f"{what}: got an element of type {type(element).__name__}, want bytes")


def _import_ml_dtypes() -> Any:
    loaded = sys.modules.get("ml_dtypes")
    if loaded is not None:
        return loaded
    try:
        import ml_dtypes
    except ImportError as error:
        raise LoadError(
            "bfloat16 needs the package ml_dtypes; install it with `pip install ml_dtypes`",
            code=Code.FAILED_PRECONDITION,
        ) from error
    return ml_dtypes
