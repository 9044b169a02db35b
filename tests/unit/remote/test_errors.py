from __future__ import annotations

import errno

import pytest

from servable._server.remote.errors import disk_error, store_error
from servable.errors import Code, NotFoundError


def raised_by_a_driver(name: str, *bases: type[Exception], **attributes: object) -> Exception:
    """An exception class of a driver; the package imports no such class."""
    return type(name, bases or (Exception,), attributes)("what the driver says")


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (FileNotFoundError("bucket/m"), Code.NOT_FOUND),
        (PermissionError("Forbidden"), Code.PERMISSION_DENIED),
        (TimeoutError(), Code.UNAVAILABLE),
        (ConnectionResetError("reset"), Code.UNAVAILABLE),
        (ValueError("provide account_name with credentials"), Code.UNAUTHENTICATED),
        (ValueError("something else"), Code.UNAVAILABLE),
        (raised_by_a_driver("NoCredentialsError"), Code.UNAUTHENTICATED),
        (raised_by_a_driver("DefaultCredentialsError"), Code.UNAUTHENTICATED),
        (raised_by_a_driver("ClientAuthenticationError"), Code.UNAUTHENTICATED),
        (raised_by_a_driver("RepositoryNotFoundError"), Code.NOT_FOUND),
        (raised_by_a_driver("ClientResponseError", status=401), Code.UNAUTHENTICATED),
        (raised_by_a_driver("ClientResponseError", status=403), Code.PERMISSION_DENIED),
        (raised_by_a_driver("HttpError", code="404"), Code.NOT_FOUND),
        (raised_by_a_driver("HttpError", code=503), Code.UNAVAILABLE),
    ],
)
def test_exceptions_of_drivers_get_a_code(raised: Exception, code: Code) -> None:
    error = store_error(raised, "list", "s3://bucket/m")
    assert error.code is code
    assert error.message.startswith(f"Could not list s3://bucket/m: {type(raised).__name__}")
    needs_credentials = code in (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED)
    assert ("reads credentials from" in error.message) is needs_credentials


def test_the_reason_may_be_what_it_was_raised_from() -> None:
    raised = OSError("listing failed")
    raised.__cause__ = raised_by_a_driver("NoCredentialsError")
    assert store_error(raised, "list", "s3://b").code is Code.UNAUTHENTICATED


def test_errors_of_the_package_stay_as_they_are() -> None:
    error = NotFoundError("none")
    assert store_error(error, "list", "s3://b") is error


def test_secrets_in_what_drivers_say_are_not_shown() -> None:
    url = "https://me:secret@host/m"
    assert "secret" not in store_error(OSError(f"no route to {url}"), "list", url).message


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, Code.RESOURCE_EXHAUSTED),
        (errno.EDQUOT, Code.RESOURCE_EXHAUSTED),
        (errno.EACCES, Code.UNAVAILABLE),
    ],
)
def test_a_cache_that_cannot_be_written_is_reported(number: int, code: Code) -> None:
    error = disk_error(OSError(number, "why", "/cache/f"), "s3://b/m/1")
    assert error.code is code
    assert error.message.endswith("into the cache of remote models /cache/f: why")
