from __future__ import annotations

import dataclasses
from pathlib import Path
from types import MappingProxyType

import pytest

from servable._server.config.batching import BatchingParameters, ModelBatching
from servable._server.config.model_messages import model_from_json, model_json, models_text
from servable._server.config.models import ModelConfig, read_model_config_file
from servable._server.config.traffic import Shadow, TrafficSplit, WeightedVersion
from servable.errors import ConfigError, InvalidInputError
from servable.loaders._python_callable import PythonOptions
from servable.sources._version_policy import All, Latest, Specific, VersionPolicy

SPLIT = TrafficSplit("", (WeightedVersion(3, 90), WeightedVersion(4, 10)), "x-user")
EVERYTHING = ModelConfig(
    name="m",
    base_path="/models/m",
    platform="tensorflow",
    version_policy=Specific((3, 4)),
    labels=MappingProxyType({"stable": 3}),
    keep_last_version=True,
    labels_when_available=True,
    splits=(SPLIT, TrafficSplit("canary", (WeightedVersion(4, 1),))),
    shadow=Shadow(5, 0.25),
    python=PythonOptions(2),
    options={"threads": "2"},
    process=True,
    trial_load=True,
    trusted=True,
    automatic_warm_up=True,
    remote_poll_wait_seconds=2.5,
    batching=ModelBatching(BatchingParameters(max_batch_size=8, allowed_batch_sizes=(4, 8))),
)


def read(tmp_path: Path, options: str) -> ModelConfig:
    file = tmp_path / "models.config"
    file.write_text(
        'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" '
        f"servable_options {{ {options} }} }} }}"
    )
    models = read_model_config_file(str(file))
    assert models is not None
    return models[0]


def test_splits_and_the_shadow_are_read_from_the_configuration(tmp_path: Path) -> None:
    model = read(
        tmp_path,
        'traffic_splits { sticky_header: "x-user" versions { version: 3 weight: 90 } '
        "versions { version: 4 weight: 10 } } shadow { version: 5 fraction: 0.25 }",
    )
    assert model.splits == (SPLIT,)
    assert model.shadow == Shadow(5, 0.25)
    assert read(tmp_path, "").shadow is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("traffic_splits { }", "traffic split gives no version a weight"),
        ("traffic_splits { versions { version: 1 } }", "traffic split gives no version a weight"),
        (
            "traffic_splits { versions { version: 1 weight: 1 } versions { version: 1 weight: 2 } }",
            "traffic split names a version more than once",
        ),
        (
            (
                'traffic_splits { label: "a" versions { version: 1 weight: 1 } }'
                'traffic_splits { label: "a" versions { version: 2 weight: 1 } }'
            ),
            "more than one traffic split of label 'a'",
        ),
        (
            'traffic_splits { sticky_header: "x user" versions { version: 1 weight: 1 } }',
            "traffic split: 'x user' is not the name of a header",
        ),
        (
            "shadow { version: 1 fraction: 1.5 }",
            "the fraction of the shadow has to lie between 0 and 1; it is 1.5",
        ),
        (
            "shadow { version: 1 fraction: nan }",
            "the fraction of the shadow has to lie between 0 and 1; it is nan",
        ),
    ],
)
def test_invalid_splits_and_shadows_are_refused(tmp_path: Path, options: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, options)
    assert caught.value.message == f"Model m: {reason}"


def test_the_share_of_a_missing_version_goes_to_the_others() -> None:
    split = TrafficSplit("", tuple(WeightedVersion(v, w) for v, w in ((1, 60), (2, 30), (3, 10))))
    assert split.shares({1, 2, 3}) == {1: 0.6, 2: 0.3, 3: 0.1}
    assert split.shares({2, 3}) == {1: 0, 2: 0.75, 3: 0.25}
    assert split.shares({9}) == {1: 0, 2: 0, 3: 0}
    assert split.missing({2, 3}) == {1}


def test_json_and_text_say_everything_about_a_model(tmp_path: Path) -> None:
    default = ModelConfig("m", "/m")
    unsaid = [
        field.name
        for field in dataclasses.fields(ModelConfig)
        if field.name not in ("name", "base_path", "platform")
        and getattr(EVERYTHING, field.name) == getattr(default, field.name)
    ]
    assert not unsaid, "EVERYTHING has to differ from the default, or this test shows nothing"
    for model in (EVERYTHING, default):
        assert model_from_json(model_json(model)) == model
        file = tmp_path / "models.config"
        file.write_text(models_text([model]))
        assert read_model_config_file(str(file)) == (model,)


@pytest.mark.parametrize("policy", [All(), Latest(), Latest(3), Specific((1,)), Specific()])
def test_json_keeps_the_version_policy(policy: VersionPolicy) -> None:
    model = ModelConfig("m", "/m", version_policy=policy)
    assert model_from_json(model_json(model)) == model


def test_json_that_is_no_model_is_refused() -> None:
    half_a_pair = "\ud800"
    for document in (
        {"nmae": "m"},
        {"name": 7},
        {"version_labels": {"a": "x"}},
        {half_a_pair: 1},
        {"name": half_a_pair},
    ):
        with pytest.raises(InvalidInputError, match="Not a ModelConfig"):
            model_from_json(document)
