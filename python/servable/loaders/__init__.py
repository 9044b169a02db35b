"""Loads versions; `servable.platforms` says which of these a server uses for what."""

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
