"""Tables of embeddings: ids or keys to vectors, bags of vectors, nearest rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from servable.lifecycle import Loader, ServableId
from servable.loaders._embeddings import (
    EmbeddingsOptions,
    any_table,
    embeddings_loader,
    named_table,
)
from servable.loaders._native import NativeLoader, loaded_signatures
from servable.platforms import (
    Platform,
    PlatformContext,
    SignatureDescription,
    VersionDirectory,
)

if TYPE_CHECKING:
    from servable.loaders._wire import ForwardFile


class EmbeddingsPlatform(Platform):
    """Serves arrays from mapped files, and texts from memory."""

    contents = (
        "a table of embeddings is embeddings.npy or .safetensors with keys.txt if it has keys, or "
        "embeddings.tsv, .txt, .vec or .bin"
    )
    options_type = EmbeddingsOptions
    precedence = -2
    """Code and models may have such files beside them."""

    def recognises(self, files: Collection[str]) -> bool:
        """Whether there is a file of such a name."""
        return bool(named_table(files))

    def has_all_files(
        self, files: Collection[str], open_file: Callable[[str], ForwardFile] | None = None
    ) -> bool:
        """Whether there is a table of any name: the configuration names the kind."""
        del open_file
        return bool(any_table(files))

    def describe(self, directory: str) -> Mapping[str, SignatureDescription]:
        """Open the table."""
        return loaded_signatures(self._loader(directory, EmbeddingsOptions()))

    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        """Map the file, or read it."""
        del servable_id
        return self.completed(self._loader(directory.path, self.options_of(directory)), directory)

    def _loader(self, path: str, options: EmbeddingsOptions) -> NativeLoader:
        return embeddings_loader(path, options, self.context.flags.max_run_seconds, self.contents)


def platforms(context: PlatformContext) -> Iterator[Platform]:
    """The only platform of embeddings."""
    yield EmbeddingsPlatform("embeddings", context)
