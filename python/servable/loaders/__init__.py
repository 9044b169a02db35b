"""One file for each kind of servable."""

from servable.loaders._python_callable import (
    PythonCallableAdapter,
    PythonCallableLoader,
    PythonOptions,
)
from servable.loaders._saved_model import SavedModelAdapter, SavedModelLoader, SavedModelOptions
from servable.loaders._tensorflow_runtime import TensorFlowRuntime

__all__ = [
    "PythonCallableAdapter",
    "PythonCallableLoader",
    "PythonOptions",
    "SavedModelAdapter",
    "SavedModelLoader",
    "SavedModelOptions",
    "TensorFlowRuntime",
]
