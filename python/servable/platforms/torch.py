"""PyTorch's own files: TorchScript, programs of `torch.export`, packages of AOTInductor, and trusted pickles."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial

from servable.lifecycle import Loader, ServableId
from servable.loaders._estimators import described
from servable.loaders._torch import TorchOptions, open_torch, require_torch
from servable.loaders._torch_files import MODEL_FILES, SUFFIXES, torch_file
from servable.platforms import (
    Platform,
    PlatformContext,
    SignatureDescription,
    VersionDirectory,
    declared_signatures,
)


class TorchPlatform(Platform):
    """Runs modules by PyTorch in workers. Files that run code when they are read need `trusted: true`."""

    contents = (
        f"a PyTorch model is {' or '.join(MODEL_FILES)}, or the only file "
        f"{' or '.join(f'*{suffix}' for suffix in SUFFIXES)}"
    )
    runs_code = True
    has_own_batch_threads = True
    serves_files = True
    precedence = -5  # the original beside a converted model
    options_type = TorchOptions

    def recognises(self, files: Collection[str]) -> bool:
        """Whether there is a model."""
        return torch_file(files) is not None

    def describe(self, directory: str) -> Mapping[str, SignatureDescription]:
        """Read the manifest; the file must not be read."""
        return declared_signatures(described(directory).signatures)

    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        """Read the file in workers."""
        open_model = partial(
            open_torch,
            options=self.options_of(directory),
            is_trusted=directory.model.trusted,
            workers=max(directory.model.python.workers, 1),
        )
        return self.in_workers(servable_id, directory, open_model)

    def require_installed(self) -> None:
        """Find PyTorch."""
        require_torch()


def platforms(context: PlatformContext) -> Iterator[Platform]:
    """The only platform of PyTorch."""
    yield TorchPlatform("torch", context)
