"""Flags that are accepted for compatibility with existing command lines, and have no effect here."""

from __future__ import annotations

from collections.abc import Mapping

from servable._server.config.flags import Flags

_THREADS = "--worker_threads sets the number of threads; further requests wait"
_NOT_YET = "it is not supported yet"

_REASONS: Mapping[str, str] = {
    "rest_api_num_threads": _THREADS,
    "grpc_max_threads": _THREADS,
    "flush_filesystem_caches": "this server does not cache files",
    "remove_unused_fields_from_bundle_metagraph": "only signatures are kept",
    "skip_initialize_tpu": "TPUs are not supported",
}


def inapplicable_flags(flags: Flags) -> Mapping[str, str]:
    """The reasons why flags have no effect, by name; only for flags that differ from their default."""
    defaults = Flags()
    return {
        name: reason
        for name, reason in _REASONS.items()
        if getattr(flags, name) != getattr(defaults, name)
    }
