"""Replays the sample of the recordings in the repository: on any clone, without external material."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import conformance
from support.server_process import COMMAND

pytestmark = pytest.mark.timeout(600)

SAMPLES = sorted(conformance.SAMPLE.glob("*.jsonl.gz"))


def test_there_is_a_sample() -> None:
    assert len(SAMPLES) == 6


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda file: file.name.partition(".")[0])
def test_answers_are_those_of_tensorflow_serving(
    sample: Path, causes: list[conformance.Cause], model_cache: Path
) -> None:
    areas = conformance.replay(
        sample, COMMAND, causes, models=conformance.exported_models(model_cache)
    )
    assert sum(area.total for area in areas) >= 6
    differing = [conformance.shown(area) for area in areas if area.unlisted]
    assert not differing, "\n".join(differing)
