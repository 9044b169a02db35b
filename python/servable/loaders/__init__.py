"""Loaders of versions; `servable.platforms` composes them for each kind of servable."""

from servable.loaders._function import FunctionLoader, FunctionModel
from servable.loaders._python_callable import PythonCallableLoader, PythonOptions
from servable.loaders._saved_model import SavedModelLoader, SavedModelOptions
from servable.loaders._tensorflow_runtime import TensorFlowRuntime

__all__ = [
    "FunctionLoader",
    "FunctionModel",
    "PythonCallableLoader",
    "PythonOptions",
    "SavedModelLoader",
    "SavedModelOptions",
    "TensorFlowRuntime",
]
