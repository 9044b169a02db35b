"""Bounds the listings of S3.

The driver itself asks for page after page, for as long as the store says that there are more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from servable._server.remote.web import MAX_ENTRIES
from servable.errors import Code, LoadError


def with_bounded_listings(driver: Any) -> Any:
    """A class of file systems like `s3fs.S3FileSystem`, of which a listing fails when it becomes too long."""

    class Bounded(driver):  # type: ignore[misc]  # it is known at run time only
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
