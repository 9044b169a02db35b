"""Pickled estimators. Reading one runs any code, so it needs `trusted: true`, and happens in worker processes only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from servable.lifecycle import Loader, ServableId
from servable.loaders._estimators import described
from servable.loaders._stored_estimators import PICKLE_FILES, open_pickle
from servable.loaders._trust import untrusted
from servable.platforms import (
    Platform,
    PlatformContext,
    SignatureDescription,
    VersionDirectory,
    declared_signatures,
)


class PicklePlatform(Platform):
    """Reads pickles in workers, where the configuration of the model trusts them."""

    contents = f"a pickled estimator is one of {', '.join(PICKLE_FILES)}"
    runs_code = True
    has_own_batch_threads = True
    precedence = -10  # the original beside a converted model

    def recognises(self, files: Collection[str]) -> bool:
        """Whether there is a pickle."""
        return any(name in files for name in PICKLE_FILES)

    def describe(self, directory: str) -> Mapping[str, SignatureDescription]:
        """Read the manifest; the pickle must not be read."""
        return declared_signatures(described(directory).signatures)

    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        """Read the pickle in workers.

        Raises:
            LoadError: The configuration does not trust it.
        """
        if not directory.model.trusted:
            raise untrusted(directory.path, "a pickled object")
        return self.in_workers(servable_id, directory, open_pickle)


def platforms(context: PlatformContext) -> Iterator[Platform]:
    """The only platform of pickles."""
    yield PicklePlatform("pickle", context)
