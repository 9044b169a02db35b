"""Calls a server from Python: NumPy in and out, gRPC or REST, no TensorFlow.

```python
from servable.client import Client

with Client("localhost:8500") as client:
    client.predict("half_plus_two", [1.0, 2.0]).value  # array([2.5, 3. ], dtype=float32)
```

Needs `pip install 'servable[client]'`. Uses only the APIs of TensorFlow Serving, so it can call TensorFlow Serving as
well.
"""

try:
    import numpy as _numpy  # noqa: F401 - here, so that one module alone explains a missing NumPy
except ImportError as error:
    raise ImportError(
        "servable.client needs NumPy; install it with `pip install 'servable[client]'`"
    ) from error

from servable.client._async_client import AsyncClient, AsyncModel
from servable.client._client import Client, Model
from servable.client._options import Retry, Tls
from servable.client._results import Class, InferenceTask, Prediction, State, VersionStatus
from servable.client._signatures import ModelMetadata, ModelSignature, TensorInfo

__all__ = [
    "AsyncClient",
    "AsyncModel",
    "Class",
    "Client",
    "InferenceTask",
    "Model",
    "ModelMetadata",
    "ModelSignature",
    "Prediction",
    "Retry",
    "State",
    "TensorInfo",
    "Tls",
    "VersionStatus",
]
