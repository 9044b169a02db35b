"""The pytest fixture `servable_server`, for tests of models and their clients.

It must be enabled, because an entry point would be imported by every test run in an environment where Servable is
installed. In a `conftest.py`:

```python
pytest_plugins = ["servable.testing.pytest_plugin"]
```
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from servable.testing._serving import ServableServer, Served, serving

__all__ = ["servable_server"]


@pytest.fixture
def servable_server() -> Iterator[ServableServer]:
    """Serves models until the end of the test: `servable_server(path_or_code, *flags, name=…)`.

    The arguments are those of `servable.testing._serving`, which makes fixtures of other scopes.
    """
    with contextlib.ExitStack() as stack:

        def serve(model: object, *flags: str, **options: object) -> Served:
            return stack.enter_context(serving(model, *flags, **options))  # type: ignore[arg-type]

        yield serve
