"""Replays recordings of TensorFlow Serving, byte for byte.

One test a group. The recordings of a file are replayed together, once, when the first of its groups is requested.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support import conformance
from support.server_process import COMMAND

pytestmark = pytest.mark.timeout(900)

GROUPS = {
    "json": (
        "json.b64",
        "json.deep",
        "json.grammar",
        "json.grammar.bytes",
        "json.number",
        "json.number.random",
        "json.printing",
        "json.string",
        "json.structure",
        "json.structure.models",
        "json.structure.multi",
        "json.structure.shapes",
        "json.wide",
    ),
    "rest": ("rest.examples", "rest.metadata", "rest.status", "rest.url"),
    "http": ("http",),
    "grpc": (
        "grpc.dtype",
        "grpc.examples",
        "grpc.examples.wire",
        "grpc.fit",
        "grpc.metadata",
        "grpc.multi",
        "grpc.mutated",
        "grpc.predict",
        "grpc.shape",
        "grpc.status",
        "grpc.tensor",
        "grpc.wire",
    ),
    "profiles": (
        "http, profiles",
        "profile.batching",
        "profile.method_check",
        "profile.tensor_content",
    ),
    "scenarios": ("scenario",),
}

Replay = Callable[[str], dict[str, conformance.Area]]


@pytest.fixture(scope="module")
def replay(conformance_dir: Path, causes: list[conformance.Cause], model_cache: Path) -> Replay:
    """Replays the recordings of one file, and keeps the results."""
    known: dict[str, dict[str, conformance.Area]] = {}

    def run(name: str) -> dict[str, conformance.Area]:
        if name not in known:
            areas = conformance.replay(
                conformance_dir / f"golden/{name}.jsonl.gz",
                COMMAND,
                causes,
                models=conformance.exported_models(model_cache),
            )
            known[name] = {area.name: area for area in areas}
        return known[name]

    return run


def test_every_recording_is_replayed(conformance_dir: Path) -> None:
    files = {file.name.partition(".")[0] for file in conformance_dir.glob("golden/*.jsonl.gz")}
    assert files == set(GROUPS)


@pytest.mark.parametrize("recording", GROUPS)
def test_every_group_is_compared(recording: str, replay: Replay) -> None:
    assert sorted(replay(recording)) == sorted(GROUPS[recording])


@pytest.mark.parametrize(
    ("recording", "group"),
    [(recording, group) for recording, groups in GROUPS.items() for group in groups],
)
def test_answers_are_those_of_tensorflow_serving(
    recording: str,
    group: str,
    replay: Replay,
    check_area: Callable[[conformance.Area], None],
) -> None:
    check_area(replay(recording)[group])
