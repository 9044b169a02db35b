"""The kinds of servables: one file each, found by its place in this package, or by an entry point.

A file of this package, or an entry point of the group `servable.platforms`, provides a function `platforms(context)`
that makes one or more objects of `Platform`. Nothing else names the kinds.
"""

from servable.loaders._description import SignatureDescription, declared_signatures
from servable.platforms._platform import Platform, PlatformContext, names_in, path_in
from servable.platforms._registry import find_platforms
from servable.sources._configured import VersionDirectory

__all__ = [
    "Platform",
    "PlatformContext",
    "SignatureDescription",
    "VersionDirectory",
    "declared_signatures",
    "find_platforms",
    "names_in",
    "path_in",
]
