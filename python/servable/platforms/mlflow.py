"""Python functions of MLflow. Reading one runs any code, so it needs `trusted: true`, and happens in workers only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from servable.lifecycle import Loader, ServableId
from servable.loaders._description import UndescribedError
from servable.loaders._mlflow import open_mlflow, require_mlflow
from servable.loaders._mlflow_signature import DESCRIPTION_FILE, read_description
from servable.loaders._trust import untrusted
from servable.platforms import (
    Platform,
    PlatformContext,
    SignatureDescription,
    VersionDirectory,
    declared_signatures,
)
from servable.signature import DEFAULT_SIGNATURE, Signature


class MLflowPlatform(Platform):
    """Runs the flavour `python_function` in workers, where the configuration of the model trusts it."""

    contents = f"a model of MLflow has the file {DESCRIPTION_FILE}"
    runs_code = True
    has_own_batch_threads = True
    precedence = -6  # its directory may have a file that a native runtime serves

    def recognises(self, files: Collection[str]) -> bool:
        """Whether there is a description of a model."""
        return DESCRIPTION_FILE in files

    def describe(self, directory: str) -> Mapping[str, SignatureDescription]:
        """Read the description; no code is run."""
        require_mlflow()
        description = read_description(Path(directory))
        if description.outputs is None:
            raise UndescribedError(
                f"{directory}: {DESCRIPTION_FILE} has no outputs; they are known once it is loaded"
            )
        signature = Signature(description.inputs.specs, description.outputs.specs)
        return declared_signatures({DEFAULT_SIGNATURE: signature})

    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        """Read the model in workers.

        Raises:
            LoadError: The configuration does not trust it.
        """
        if not directory.model.trusted:
            raise untrusted(directory.path, "a Python function of MLflow")
        return self.in_workers(servable_id, directory, open_mlflow)

    def require_installed(self) -> None:
        """Find MLflow."""
        require_mlflow()


def platforms(context: PlatformContext) -> Iterator[Platform]:
    """The only platform of MLflow."""
    yield MLflowPlatform("mlflow", context)
