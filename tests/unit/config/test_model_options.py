from __future__ import annotations

import re
from pathlib import Path

from servable._server.config.models import ModelConfig, read_model_config_file
from servable.sources import Latest

GUIDE = Path(__file__).resolve().parents[3] / "docs/guides/versions.md"


def test_the_configuration_of_the_guide_is_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"```\n(model_config_list .*?)```", GUIDE.read_text(), re.DOTALL)
    file = tmp_path / "models.config"
    file.write_text(text)
    assert read_model_config_file(str(file)) == (
        ModelConfig(
            "ranker",
            "/models/ranker",
            version_policy=Latest(2),
            labels={"stable": 7},
            keep_last_version=True,
            labels_when_available=True,
        ),
    )


def test_a_model_has_no_options_by_default(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(
        "model_config_list { config "
        '{ name: "m" base_path: "/m" model_platform: "tensorflow" servable_options {} } }'
    )
    assert read_model_config_file(str(file)) == (ModelConfig("m", "/m"),)
