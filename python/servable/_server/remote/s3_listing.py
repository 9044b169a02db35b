"""Limits listings of S3.

The driver itself requests pages as long as the store announces more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from servable._server.remote.web import MAX_ENTRIES
from servable.errors import Code, LoadError


def with_bounded_listings(driver: Any) -> Any:
    """A subclass of file systems such as `s3fs.S3FileSystem`, whose listings fail above a size limit."""

    class Bounded(driver):  # type: ignore[misc]  # the base class is only known at run time
        async def _iterdir(self, *arguments: Any, **keywords: Any) -> AsyncIterator[Any]:
            count = 0
            async for entry in super()._iterdir(*arguments, **keywords):
                count += 1
                if count > MAX_ENTRIES:
                    raise LoadError(
                        f"A listing in {arguments[0] if arguments else 'the bucket'} has more than "
                        f"{MAX_ENTRIES} entries",
                        code=Code.RESOURCE_EXHAUSTED,
                    )
                yield entry

    return Bounded
