"""Estimators of scikit-learn that have no conversion, as skops writes them; each runs in worker processes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial

from servable.lifecycle import Loader, ServableId
from servable.loaders._estimators import described
from servable.loaders._stored_estimators import SKOPS_FILE, open_skops, require_skops
from servable.platforms import (
    Platform,
    PlatformContext,
    SignatureDescription,
    VersionDirectory,
    declared_signatures,
)


class SkopsPlatform(Platform):
    """Reads estimators in workers. Types that skops does not know need `trusted: true`."""

    contents = f"an estimator of scikit-learn is {SKOPS_FILE}"
    runs_code = True
    has_own_batch_threads = True

    def recognises(self, files: Collection[str]) -> bool:
        """Whether there is such a file."""
        return SKOPS_FILE in files

    def describe(self, directory: str) -> Mapping[str, SignatureDescription]:
        """Read the manifest."""
        return declared_signatures(described(directory).signatures)

    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        """Read the estimator in workers."""
        open_model = partial(open_skops, is_trusted=directory.model.trusted)
        return self.in_workers(servable_id, directory, open_model)

    def require_installed(self) -> None:
        """Find skops."""
        require_skops()


def platforms(context: PlatformContext) -> Iterator[Platform]:
    """The only platform of skops."""
    yield SkopsPlatform("skops", context)
