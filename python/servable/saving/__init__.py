"""Saves live models as version directories, and opens version directories in this process.

```python
import servable

servable.save(classifier, "models/iris", example=X[:20])  # writes models/iris/1
model = servable.load("models/iris")
model(X[:3])                                              # {"labels": array(...), "probabilities": array(...)}
```

Each file of `_kinds` converts the models of one framework. Nothing imports a framework that is not loaded already.
"""

from __future__ import annotations

try:
    import numpy as _numpy  # noqa: F401 - here, so that one module alone explains a missing NumPy
except ImportError as error:
    raise ImportError(
        "servable.saving needs NumPy; install it with `pip install 'servable[python]'`"
    ) from error

from servable.saving._load import LoadedModel, load
from servable.saving._save import save

__all__ = ["LoadedModel", "load", "save"]
