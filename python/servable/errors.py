"""All exceptions of the package, with the canonical code that a client sees.

```
ServableError
├── InvalidInputError        INVALID_ARGUMENT     400
├── NotFoundError            NOT_FOUND            404
├── FailedPreconditionError  FAILED_PRECONDITION  400
├── OverloadedError          RESOURCE_EXHAUSTED   429
├── UnavailableError         UNAVAILABLE          503
├── DeadlineExceededError    DEADLINE_EXCEEDED    504
├── UnimplementedError       UNIMPLEMENTED        501
├── CancelledError           CANCELLED            499
├── BackendError             INTERNAL             500
├── LoadError                any: the status of a version, never the answer to a request
├── ConfigError              INVALID_ARGUMENT by default: start-up, or a refused reload
└── SaveError                a model that `servable.save` cannot save
```
"""

from __future__ import annotations

import enum
from typing import ClassVar

__all__ = [
    "Code",
    "ServableError",
    "InvalidInputError",
    "NotFoundError",
    "FailedPreconditionError",
    "OverloadedError",
    "UnavailableError",
    "DeadlineExceededError",
    "UnimplementedError",
    "CancelledError",
    "BackendError",
    "LoadError",
    "ConfigError",
    "SaveError",
    "from_code",
]


class Code(enum.IntEnum):
    """A canonical status code, with the numbers of `google.rpc.Code`."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_MAY_PASS = frozenset(
    {
        Code.CANCELLED,
        Code.UNKNOWN,
        Code.DEADLINE_EXCEEDED,
        Code.NOT_FOUND,
        Code.PERMISSION_DENIED,
        Code.RESOURCE_EXHAUSTED,
        Code.ABORTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.UNAUTHENTICATED,
    }
)
"""Codes of failures that may pass without a change of the version: missing files, credentials, memory, the network.

All other codes mean that the version itself, or the installation, is wrong.
"""


class ServableError(Exception):
    """The base of all exceptions of this package.

    Attributes:
        code: The canonical code.
        message: What was found and what was wanted.
    """

    default_code: ClassVar[Code] = Code.UNKNOWN

    def __init__(self, message: str, *, code: Code | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else Code(code)

    def __str__(self) -> str:
        """The message without the code."""
        return self.message

    @property
    def may_pass(self) -> bool:
        """Whether a later load of the same files may succeed; if not, the load is not retried."""
        return self.code in _MAY_PASS


class InvalidInputError(ServableError):
    """A request is wrong in any state of the server: JSON, dtype, shape, input names, an unknown label."""

    default_code = Code.INVALID_ARGUMENT


class NotFoundError(ServableError):
    """The model or version does not exist, is not yet available, or no longer is."""

    default_code = Code.NOT_FOUND


class FailedPreconditionError(ServableError):
    """The state of a version or of the server does not allow the operation."""

    default_code = Code.FAILED_PRECONDITION


class OverloadedError(ServableError):
    """A limit on resources or admission was reached."""

    default_code = Code.RESOURCE_EXHAUSTED


class UnavailableError(ServableError):
    """Temporarily impossible: a queue is full, or the server starts or drains."""

    default_code = Code.UNAVAILABLE


class DeadlineExceededError(ServableError):
    """The caller's deadline has passed."""

    default_code = Code.DEADLINE_EXCEEDED


class UnimplementedError(ServableError):
    """A feature of TensorFlow Serving that this server does not have."""

    default_code = Code.UNIMPLEMENTED


class CancelledError(ServableError):
    """The work was cancelled."""

    default_code = Code.CANCELLED


class BackendError(ServableError):
    """The framework raised, or this package has a bug."""

    default_code = Code.INTERNAL


class LoadError(ServableError):
    """A version could not be loaded; its status carries the code and the message."""

    def __init__(
        self, message: str, *, code: Code | None = None, may_pass: bool | None = None
    ) -> None:
        """Describe a failed load.

        Args:
            message: What was found and what was wanted.
            code: The canonical code.
            may_pass: Whether waiting may help; by default the code decides.
        """
        super().__init__(message, code=code)
        self._may_pass = may_pass

    @property
    def may_pass(self) -> bool:
        """Whether waiting may help; by default the code decides."""
        return super().may_pass if self._may_pass is None else self._may_pass


class ConfigError(ServableError):
    """A flag, a configuration file or a reload request cannot be used."""

    default_code = Code.INVALID_ARGUMENT


class SaveError(ServableError):
    """A model cannot be saved, or what was written differs from it."""

    default_code = Code.FAILED_PRECONDITION


_BY_CODE: dict[Code, type[ServableError]] = {
    cls.default_code: cls
    for cls in (
        InvalidInputError,
        NotFoundError,
        FailedPreconditionError,
        OverloadedError,
        UnavailableError,
        DeadlineExceededError,
        UnimplementedError,
        CancelledError,
        BackendError,
    )
}


def from_code(code: int, message: str) -> ServableError:
    """The exception for a canonical code, as the request path reports errors.

    A code without an exception class becomes a `ServableError` with that code.
    """
    canonical = Code(code)
    return _BY_CODE.get(canonical, ServableError)(message, code=canonical)
