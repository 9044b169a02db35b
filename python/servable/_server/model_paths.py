"""Finds the models in the paths of a command line: `servable PATH [PATH ...]`.

A path is one of these, of any kind of servable:

- a base path: a directory with a numbered directory for each version;
- a version directory; a numbered one is that version of its parent directory, any other one is version 1;
- a model file;
- a directory with several of these;
- the URL of a remote base path.

The result is a list of models, as a configuration file would have it. The sources find the versions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import unquote, urlsplit

from servable._server.config.flags import Flags
from servable._server.config.models import ModelConfig
from servable._server.remote.store import RemoteStore
from servable._server.remote.urls import is_remote, local_path, shown
from servable.errors import Code, ConfigError, NotFoundError
from servable.platforms import Platform, names_in
from servable.platforms._registry import kinds_in, kinds_of
from servable.sources._filesystem import BARE_VERSION, parse_version
from servable.sources._model_files import explain_files, has_known_suffix, name_format
from servable.sources._version_policy import Latest, Specific

MAX_ENTRIES = 10_000
"""The maximum number of entries in a directory of models."""

_SHOWN_ENTRIES = 8
_SHOWN_PLACES = 10

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._~-]+")
"""The characters that would have to be escaped in the path of a URL."""

_NAMED_BY_DIRECTORY = frozenset({"model", "saved_model"})
"""The names of files, without suffix, that say nothing about the model."""


@dataclass(frozen=True, slots=True)
class FoundModels:
    """The models in some paths.

    Attributes:
        models: The models, in the order of the paths.
        left_out: What a directory of models contains that is not served: the place and the reason, for the log.
    """

    models: tuple[ModelConfig, ...]
    left_out: tuple[str, ...] = ()


def chosen_name(flags: Flags) -> str:
    """The name for the only model, from the command line; empty if the path gives it."""
    return "" if flags.model_name == Flags().model_name else flags.model_name


def is_model_path(path: str, platforms: Mapping[str, Platform]) -> bool:
    """Whether a path is one for `find_models`, in contrast to a configuration file."""
    if is_remote(path) or os.path.isdir(os.path.expanduser(path)):
        return True
    return bool(kinds_of(platforms, [os.path.basename(path)])) or has_known_suffix(path)


def find_models(
    paths: Sequence[str], platforms: Mapping[str, Platform], name: str = ""
) -> FoundModels:
    """Find the models in paths.

    Args:
        paths: Local paths, also relative ones and with `~`, and URLs.
        platforms: The platforms, which recognise versions, by name.
        name: The name of the only model; empty for that of its directory or file.

    Raises:
        ConfigError: Nothing is recognised, several kinds recognise the same files, or two models have the same name.
        ServableError: A remote base path cannot be listed.
    """
    finder = _Finder(platforms)
    found: dict[str, _Found] = {}
    for path in paths:
        for each in finder.find(path):
            _add(each, found)
    if name and len(found) > 1:
        raise ConfigError(
            f"--model_name={name} names one model, and there are {len(found)}: {', '.join(found)}"
        )
    models = [replace(each.model(), name=name or each.name) for each in found.values()]
    return FoundModels(tuple(models), tuple(finder.left_out))


def version_of(model: ModelConfig, number: int | None = None) -> tuple[int, str]:
    """One version of a model with a local base path, for commands that look at a single one.

    Args:
        model: The model.
        number: The number of the version; by default the highest one of those to serve.

    Returns:
        The number, and the path.

    Raises:
        NotFoundError: There is none.
    """
    base_path, policy = model.base_path, model.version_policy
    if is_remote(base_path):
        raise NotFoundError(f"{shown(base_path)} is remote; only local versions can be read")
    if os.path.isfile(base_path) or not (names := _versions(names_in(base_path), base_path)):
        found = {BARE_VERSION: base_path}
    else:
        paths = [(parse_version(name), os.path.join(base_path, name)) for name in names]
        found = {each: path for each, path in paths if each is not None}
    if number is None:
        number = max(policy.versions if isinstance(policy, Specific) else found)
    if number not in found:
        raise NotFoundError(f"There is no version {number} in {base_path}")
    return number, found[number]


@dataclass(frozen=True, slots=True)
class _Found:
    """A model.

    Attributes:
        name: Its name.
        place: Where it was found.
        base_path: Its base path.
        platform: Its kind.
        versions: The versions to serve; empty for the highest one.
    """

    name: str
    place: str
    base_path: str
    platform: str
    versions: frozenset[int] = frozenset()

    def model(self) -> ModelConfig:
        """Its configuration."""
        policy = Specific(tuple(sorted(self.versions))) if self.versions else Latest()
        return ModelConfig(self.name, self.base_path, self.platform, policy)


def _add(new: _Found, found: dict[str, _Found]) -> None:
    """Add a model, or versions of one.

    Raises:
        ConfigError: Another model has the name.
    """
    known = found.setdefault(new.name, new)
    if known == new:
        return
    both = f"{known.place} ({known.platform}) and {new.place} ({new.platform})"
    if known.base_path != new.base_path:
        raise ConfigError(
            f"Two models would have the name {new.name}: {both}. Rename one of them, or name both in a "
            "--model_config_file"
        )
    if known.platform != new.platform or not (known.versions and new.versions):
        raise ConfigError(f"{both} are versions of the same model, {new.name}; give one of them")
    found[new.name] = replace(known, versions=known.versions | new.versions)


@dataclass(slots=True)
class _Finder:
    """Looks into paths.

    Attributes:
        platforms: The platforms, by name.
        left_out: See `FoundModels`.
    """

    platforms: Mapping[str, Platform]
    left_out: list[str] = field(default_factory=list)

    def find(self, path: str) -> Iterable[_Found]:
        """The models in one path.

        Raises:
            ServableError: There is none, or it cannot be read.
        """
        if is_remote(path):
            return [self._at_url(path.rstrip("/"))]
        path = os.path.abspath(os.path.expanduser(local_path(path)))
        try:
            if os.path.isfile(path):
                return [self._at_file(path)]
            found = self._in_directory(path)
            return self._in_directory_of_models(path) if found is None else [found]
        except OSError as error:
            code = Code.NOT_FOUND if isinstance(error, FileNotFoundError) else None
            raise ConfigError(f"{error.filename}: {error.strerror}", code=code) from error

    def _in_directory(self, directory: str) -> _Found | None:
        """The model whose base path or version this directory is; `None` if it is neither.

        Raises:
            OSError: It cannot be listed.
        """
        versions = _versions(os.listdir(directory), directory)
        for version in versions:
            # A higher version that is still being written may lack the files that tell its kind.
            place = os.path.join(directory, version)
            if (platform := self._kind(place)) is not None:
                name = _name(os.path.basename(directory), directory)
                return _Found(name, directory, directory, platform.name)
        if versions:
            return None
        if self._contains_models(directory, names_in(directory)):
            return None
        platform = self._kind(directory)
        return None if platform is None else _version(directory, platform)

    def _in_directory_of_models(self, directory: str) -> Sequence[_Found]:
        """The models in the entries of a directory.

        Raises:
            ConfigError: There is none, or there are too many entries.
            OSError: The directory cannot be listed.
        """
        names = sorted(name for name in os.listdir(directory) if not name.startswith((".", "__")))
        if len(names) > MAX_ENTRIES:
            raise ConfigError(
                f"{directory} has {len(names)} entries; a directory of models has {MAX_ENTRIES} at most"
            )
        found: list[_Found] = []
        others: list[str] = []
        for name in names:
            place = os.path.join(directory, name)
            is_directory = os.path.isdir(place)
            try:
                each = self._in_directory(place) if is_directory else self._alone(place)
            except OSError as error:
                others.append(f"{place}: {error.strerror}")
                continue
            if each is not None:
                found.append(each)
            elif is_directory and self._has_models(place):
                others.append(f"{place}: it contains models; give its path, too")
            elif is_directory or explain_files(directory, [name]):
                others.append(f"{place}: {_reason(place)}")
        if not found:
            raise self._nothing(directory, others)
        self.left_out += others
        return found

    def _contains_models(self, directory: str, names: Collection[str]) -> bool:
        """Whether a directory has `iris.onnx` beside `wine.onnx`, or beside other models; then it is no version."""
        files = [name for name in names if self._serves_alone(name) is not None]
        if not files or any(_stem(name) in _NAMED_BY_DIRECTORY for name in files):
            return False
        if not all(each.serves_files for each in kinds_of(self.platforms, names)):
            return False
        places = (os.path.join(directory, name) for name in names)
        return len(files) > 1 or any(os.path.isdir(p) and self._is_model(p) for p in places)

    def _has_models(self, directory: str) -> bool:
        """Whether a directory that is no model contains some."""
        names = names_in(directory)
        places = (os.path.join(directory, name) for name in names)
        return self._contains_models(directory, names) or any(
            os.path.isdir(place) and self._is_model(place) for place in places
        )

    def _is_model(self, directory: str) -> bool:
        """Whether a directory is a version, or a base path; without a look at further directories."""
        names = names_in(directory)
        versions = [os.path.join(directory, name) for name in _versions(names, directory)]
        return any(kinds_of(self.platforms, each) for each in [names, *map(names_in, versions)])

    def _serves_alone(self, name: str) -> Platform | None:
        """The kind that serves a file with this name without its directory."""
        found = kinds_of(self.platforms, [name])
        return found[0] if found and found[0].serves_files else None

    def _alone(self, path: str) -> _Found | None:
        platform = self._serves_alone(os.path.basename(path))
        if platform is None:
            return None
        return _Found(_name(_stem(path), path), path, path, platform.name)

    def _at_file(self, path: str) -> _Found:
        """The model of a file: the file alone, or the version directory that it stands for.

        Raises:
            ConfigError: It is not recognised.
            OSError: Its directory cannot be listed.
        """
        directory, name = os.path.split(path)
        platform = self._kind(path)
        if platform is None:
            raise self._nothing(path, ())
        names = names_in(directory)
        is_version = not _versions(names, directory)
        is_named_by_directory = _stem(name) in _NAMED_BY_DIRECTORY
        # The platform might load another model from the directory. Kinds look for `model.…` first.
        rivals = [each for each in names if each != name]
        if is_named_by_directory:
            rivals = [each for each in rivals if _stem(each) in _NAMED_BY_DIRECTORY]
        is_only_model = is_version and not platform.recognises(rivals)
        stands_for_directory = (
            not platform.serves_files
            or is_named_by_directory
            or parse_version(os.path.basename(directory)) is not None
        )
        if stands_for_directory and is_only_model:
            return _version(directory, platform)
        if platform.serves_files:
            text = os.path.basename(directory) if is_named_by_directory else _stem(name)
            return _Found(_name(text, path), path, path, platform.name)
        if not is_version:
            raise ConfigError(
                f"{name} and numbered directories are in {directory}; of these, a base path has only numbered ones"
            )
        return _version(directory, platform)

    def _at_url(self, url: str) -> _Found:
        """The model with a remote base path.

        Raises:
            ServableError: It cannot be listed, or is not recognised.
        """
        store = RemoteStore()
        children = store.children(url)
        versions = _versions(children.directories)
        for place in [f"{url}/{name}" for name in versions] or [url]:
            names = [file.path for file in store.manifest(place).files]
            found = kinds_of(self.platforms, names)
            if (platform := _best(found, shown(place))) is not None:
                parts = urlsplit(url)
                directory = unquote(parts.path).rstrip("/") or parts.netloc
                return _Found(_name(os.path.basename(directory), url), url, url, platform.name)
        raise ConfigError(
            f"No model is recognised in {shown(url)}, which contains "
            f"{_listed([*children.directories, *children.files])}. A remote path is a base path, with a numbered "
            f"directory for each version.\n{self._recognised_by()}"
        )

    def _kind(self, version: str) -> Platform | None:
        """The kind of a local version; `None` if there is none.

        Raises:
            ConfigError: Several kinds recognise it, and none takes precedence.
        """
        return _best(kinds_in(self.platforms, version), version)

    def _nothing(self, path: str, places: Sequence[str]) -> ConfigError:
        """The error for a path without a model.

        Args:
            path: The path.
            places: What was inspected in it, and why it is no model.
        """
        looked_at = [f"  {place}" for place in places[:_SHOWN_PLACES]]
        if len(places) > _SHOWN_PLACES:
            looked_at.append(f"  and {len(places) - _SHOWN_PLACES} more")
        lines = [f"No model is recognised in {path}: {_reason(path)}", *looked_at]
        return ConfigError("\n".join([*lines, self._recognised_by()]), code=Code.NOT_FOUND)

    def _recognised_by(self) -> str:
        contents = dict.fromkeys(f"  {each.contents}" for each in self.platforms.values())
        return "\n".join(["A model is recognised by its files:", *contents])


def _best(found: Sequence[Platform], place: str) -> Platform | None:
    """The platform that takes precedence of those that recognise a version.

    Raises:
        ConfigError: There are several.
    """
    best = [each for each in found if each.precedence == found[0].precedence]
    if len(best) > 1:
        kinds = " and ".join(f"{each.name} ({each.contents})" for each in best)
        raise ConfigError(
            f"{place} is recognised as {kinds}. Give the path of the model's file, or name the kind by "
            "model_platform in a --model_config_file"
        )
    return best[0] if best else None


def _version(directory: str, platform: Platform) -> _Found:
    """The model of a version directory."""
    parent, base = os.path.split(directory)
    number = parse_version(base)
    if number is None:
        return _Found(_name(base, directory), directory, directory, platform.name)
    name = _name(os.path.basename(parent), directory)
    return _Found(name, directory, parent, platform.name, frozenset([number]))


def _versions(names: Iterable[str], directory: str | None = None) -> list[str]:
    """The names of version directories, the highest version first."""
    numbered = [(number, name) for name in names if (number := parse_version(name)) is not None]
    return [
        name
        for _, name in sorted(numbered, reverse=True)
        if directory is None or os.path.isdir(os.path.join(directory, name))
    ]


def _stem(path: str) -> str:
    """The name of a file without its suffix, or that of a directory."""
    return os.path.splitext(os.path.basename(path))[0]


def _name(text: str, path: str) -> str:
    """The name of a model that can be written in a URL as it is.

    Raises:
        ConfigError: The text has no letter or digit.
    """
    name = _NOT_IN_NAMES.sub("_", text)
    if not any(map(str.isalnum, name)):
        raise ConfigError(
            f"{shown(path)} gives no name for the model; a name has letters or digits. Rename it, or set --model_name"
        )
    return name


def _reason(place: str) -> str:
    """Why a place is no model."""
    if os.path.isfile(place):
        return name_format(place) or "its name is not that of a known format"
    return "; ".join(_contents(place))


def _contents(directory: str) -> Iterator[str]:
    names = sorted(names_in(directory))
    yield f"it contains {_listed(names)}"
    if explanation := explain_files(directory, names):
        yield explanation
    for version in _versions(names, directory)[:1]:
        yield f"version {version}: {_reason(os.path.join(directory, version))}"


def _listed(names: Sequence[str]) -> str:
    shown_names = ", ".join(names[:_SHOWN_ENTRIES]) or "nothing"
    rest = len(names) - _SHOWN_ENTRIES
    return f"{shown_names} and {rest} more" if rest > 0 else shown_names
