"""Converts drivers' exceptions to errors with a code and a message that operators can act on.

Each driver has its own exceptions, and no driver may be imported only for an `except`. They are therefore recognised by
the names of their classes and by their HTTP status.
"""

from __future__ import annotations

import errno

from servable._server.remote.urls import shown
from servable.errors import Code, LoadError, ServableError

_NO_CREDENTIALS = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "TokenRetrievalError",
        "SSOTokenLoadError",
        "UnauthorizedSSOTokenError",
        "DefaultCredentialsError",
        "RefreshError",
        "CredentialUnavailableError",
        "ClientAuthenticationError",
        "GatedRepoError",
        "LocalTokenNotFoundError",
    }
)
_NOT_THERE = frozenset(
    {"ResourceNotFoundError", "RepositoryNotFoundError", "RevisionNotFoundError", "NoSuchBucket"}
)
_BY_STATUS = {401: Code.UNAUTHENTICATED, 403: Code.PERMISSION_DENIED, 404: Code.NOT_FOUND}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

PERMANENT = frozenset(
    {Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.NOT_FOUND, Code.FAILED_PRECONDITION}
)
"""Codes that a retry within seconds does not cure."""


def store_error(raised: BaseException, doing: str, url: str) -> ServableError:
    """The error of a version or a model for a driver's exception.

    Args:
        raised: The driver's exception.
        doing: The operation, such as `list`.
        url: The object of the operation.
    """
    # A driver may have wrapped a ServableError that was raised below it.
    for link in _chain(raised):
        if isinstance(link, ServableError):
            return link
    code = _code(raised)
    text = f"{type(raised).__name__}: {raised}" if str(raised) else type(raised).__name__
    message = f"Could not {doing} {shown(url)}: {text.replace(url, shown(url))}"
    if code in (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED):
        message += (
            " (the driver of the store reads credentials from environment variables, its files, or"
            " the identity of the machine)"
        )
    return LoadError(message, code=code)


def disk_error(raised: OSError, url: str) -> LoadError:
    """The error of a version that could not be written to the cache."""
    code = Code.RESOURCE_EXHAUSTED if raised.errno in _FULL else Code.UNAVAILABLE
    where = f" {raised.filename}" if raised.filename else ""
    return LoadError(
        f"Could not write {shown(url)} into the cache of remote models{where}: {raised.strerror}",
        code=code,
    )


def _chain(raised: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = raised
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _code(raised: BaseException) -> Code:
    for link in _chain(raised):
        names = {cls.__name__ for cls in type(link).__mro__}
        if names & _NO_CREDENTIALS:
            return Code.UNAUTHENTICATED
        if names & _NOT_THERE or isinstance(link, FileNotFoundError):
            return Code.NOT_FOUND
        if (code := _BY_STATUS.get(_status(link))) is not None:
            return code
        if isinstance(link, ValueError) and "credential" in str(link).lower():
            return Code.UNAUTHENTICATED  # of Azure's driver
        if isinstance(link, PermissionError):
            return Code.PERMISSION_DENIED
        # By name, since that of asyncio is another class before Python 3.11, and importing asyncio takes 20 ms.
        if isinstance(link, TimeoutError) or type(link).__name__ == "TimeoutError":
            return Code.UNAVAILABLE
    return Code.UNAVAILABLE


def _status(raised: BaseException) -> int:
    """The HTTP status of the exception; 0 for none."""
    response = getattr(raised, "response", None)
    for owner in (raised, response):
        for name in ("status", "status_code", "code"):
            value = getattr(owner, name, None)
            if isinstance(value, int) and not isinstance(value, Code):
                return value
            if isinstance(value, str) and value.isdigit():
                return int(value)
    return 0
