"""Changes of a configuration, as functions from the current one to the next one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

from servable._server.config.model_messages import model_from_json, model_json
from servable._server.config.models import ModelConfig
from servable.errors import FailedPreconditionError, InvalidInputError, NotFoundError
from servable.sources._version_policy import All, Specific

Edit: TypeAlias = Callable[[Sequence[ModelConfig]], Sequence[ModelConfig]]


def with_model(model: ModelConfig) -> Edit:
    """Add a model, or replace the one with its name."""

    def edit(models: Sequence[ModelConfig]) -> Sequence[ModelConfig]:
        if all(before.name != model.name for before in models):
            return (*models, model)
        return tuple(model if before.name == model.name else before for before in models)

    return edit


def without_model(name: str) -> Edit:
    """Remove a model."""

    def edit(models: Sequence[ModelConfig]) -> Sequence[ModelConfig]:
        rest = tuple(model for model in models if model.name != name)
        if len(rest) == len(models):
            raise NotFoundError(f"Model {name} is not configured")
        return rest

    return edit


def with_label(name: str, label: str, version: int) -> Edit:
    """Attach a label to a version; moves it if necessary."""
    return _one(name, lambda model: _labelled(model, {**model.labels, label: version}))


def without_label(name: str, label: str) -> Edit:
    """Remove a label."""

    def change(model: ModelConfig) -> ModelConfig:
        if label not in model.labels:
            raise NotFoundError(f"Model {name} has no label {label}")
        return _labelled(model, {k: v for k, v in model.labels.items() if k != label})

    return _one(name, change)


def with_split(name: str, document: Mapping[str, Any]) -> Edit:
    """Set the split of a label, or of requests without one.

    Args:
        name: The model.
        document: A `TrafficSplit` as JSON; its versions may have the short form `{"3": 90, "4": 10}`.
    """
    versions = document.get("versions", [])
    if isinstance(versions, Mapping):
        versions = [{"version": v, "weight": weight} for v, weight in versions.items()]
    if not isinstance(versions, list):
        raise InvalidInputError('The versions of a split look like {"3": 90, "4": 10}')
    wanted = {**document, "versions": versions}

    def change(model: ModelConfig) -> ModelConfig:
        (split,) = _with_options(model, {"traffic_splits": [wanted]}).splits
        rest = tuple(other for other in model.splits if other.label != split.label)
        return replace(model, splits=(*rest, split))

    return _one(name, change)


def without_split(name: str, label: str) -> Edit:
    """Remove the split of a label, or of requests without one."""

    def change(model: ModelConfig) -> ModelConfig:
        rest = tuple(split for split in model.splits if split.label != label)
        if len(rest) == len(model.splits):
            raise NotFoundError(f"Model {name} has no such split")
        return replace(model, splits=rest)

    return _one(name, change)


def with_shadow(name: str, document: Mapping[str, Any]) -> Edit:
    """Set the shadow.

    Args:
        name: The model.
        document: A `Shadow` as JSON; without a fraction, every request is copied.
    """
    wanted = {"fraction": 1.0, **document}

    def change(model: ModelConfig) -> ModelConfig:
        return replace(model, shadow=_with_options(model, {"shadow": wanted}).shadow)

    return _one(name, change)


def without_shadow(name: str) -> Edit:
    """Remove the shadow."""

    def change(model: ModelConfig) -> ModelConfig:
        if model.shadow is None:
            raise NotFoundError(f"Model {name} has no shadow")
        return replace(model, shadow=None)

    return _one(name, change)


def with_version(name: str, version: int, served: Collection[int]) -> Edit:
    """Load a version in addition to the served ones, by naming all of them in the version policy."""

    def change(model: ModelConfig) -> ModelConfig:
        match model.version_policy:
            case All():
                return model
            case Specific(versions):
                wanted = {*versions, version}
            case _:
                wanted = {*served, version}
        return replace(model, version_policy=Specific(tuple(sorted(wanted))))

    return _one(name, change)


def without_version(name: str, version: int, served: Collection[int]) -> Edit:
    """Unload a version, by naming all other served ones in the version policy."""

    def change(model: ModelConfig) -> ModelConfig:
        policy = model.version_policy
        wanted = set(policy.versions) if isinstance(policy, Specific) else set(served)
        if version not in wanted:
            raise NotFoundError(f"Version {version} of model {name} is not served")
        labels = sorted(label for label, number in model.labels.items() if number == version)
        if labels:
            raise FailedPreconditionError(
                f"Version {version} of model {name} has the label {labels[0]}; move it first"
            )
        return replace(model, version_policy=Specific(tuple(sorted(wanted - {version}))))

    return _one(name, change)


def merge(document: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a JSON merge patch (RFC 7396): objects are merged, null removes, all other values replace."""
    merged = dict(document)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            before = merged.get(key)
            merged[key] = merge(before if isinstance(before, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def patch_model(document: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a merge patch to the JSON of a model.

    There is only one version policy: a patch that names one replaces another kind.
    """
    merged = merge(document, patch)
    named = patch.get("model_version_policy")
    if isinstance(named, Mapping):
        chosen = {kind for kind, policy in named.items() if policy is not None}
        policies = merged["model_version_policy"]
        merged["model_version_policy"] = {
            kind: policy for kind, policy in policies.items() if kind in chosen or not chosen
        }
    return merged


def _one(name: str, change: Callable[[ModelConfig], ModelConfig]) -> Edit:
    def edit(models: Sequence[ModelConfig]) -> Sequence[ModelConfig]:
        if all(model.name != name for model in models):
            raise NotFoundError(f"Model {name} is not configured")
        return tuple(change(model) if model.name == name else model for model in models)

    return edit


def _labelled(model: ModelConfig, labels: Mapping[str, int]) -> ModelConfig:
    return replace(model, labels=MappingProxyType(dict(labels)))


def _with_options(model: ModelConfig, options: Mapping[str, Any]) -> ModelConfig:
    """The model with exactly these options, parsed as in a configuration file."""
    plain = model_json(replace(model, splits=(), shadow=None))
    return model_from_json({**plain, "servable_options": options})
