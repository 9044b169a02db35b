"""Trains a small module, and writes it in each of PyTorch's own formats.

usage: export_torch_models.py OUTPUT_DIRECTORY FORMAT...

Formats are `program`, `script`, `pickle`, `weights`, and `package` and `strided`, which compile C++ code. Each gets the
base path OUTPUT_DIRECTORY/FORMAT with version 1. OUTPUT_DIRECTORY/answers.json has inputs, and what the module answers
for them.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_iris

BATCH = torch.export.Dim("batch")


class Classifier(torch.nn.Module):
    """Scores species, and scales flowers by a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(8, 3)
        )

    def forward(self, flowers: torch.Tensor, scale: torch.Tensor) -> tuple[Any, Any]:
        """Return scores and the best species."""
        scores = torch.softmax(self.layers(flowers * scale[:, None]), dim=1)
        return scores, scores.argmax(dim=1)


def train() -> tuple[Classifier, Any]:
    """A module in evaluation mode, and flowers."""
    torch.manual_seed(0)
    iris = load_iris()
    flowers, species = torch.tensor(iris.data, dtype=torch.float32), torch.tensor(iris.target)
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(30):
        optimizer.zero_grad()
        scores, _ = model(flowers, torch.ones(len(flowers)))
        torch.nn.functional.nll_loss(torch.log(scores), species).backward()
        optimizer.step()
    return model.eval(), flowers[::7].contiguous()


def exported(model: Classifier, flowers: Any) -> Any:
    """The program of a module."""
    example = (flowers, torch.ones(len(flowers)))
    return torch.export.export(model, example, dynamic_shapes=({0: BATCH}, {0: BATCH}))


def write_program(model: Classifier, flowers: Any, version: Path) -> None:
    torch.export.save(exported(model, flowers), version / "model.pt2")


def write_script(model: Classifier, flowers: Any, version: Path) -> None:
    del flowers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(model).save(str(version / "model.pt"))


def write_pickle(model: Classifier, flowers: Any, version: Path) -> None:
    # A class of PyTorch, so that the server can import it.
    del flowers
    torch.save(model.layers, version / "model.pt")


def write_weights(model: Classifier, flowers: Any, version: Path) -> None:
    del flowers
    torch.save(model.state_dict(), version / "model.pt")


def write_package(model: Classifier, flowers: Any, version: Path) -> None:
    path = str(version / "model.pt2")
    torch._inductor.aoti_compile_and_package(exported(model, flowers), package_path=path)


def write_strided(model: Classifier, flowers: Any, version: Path) -> None:
    """Write a package for inputs that are not contiguous, which a server never has."""
    write_package(model, flowers.repeat(2, 1)[::2], version)


WRITERS: Mapping[str, Callable[[Classifier, Any, Path], None]] = {
    "program": write_program,
    "script": write_script,
    "pickle": write_pickle,
    "weights": write_weights,
    "package": write_package,
    "strided": write_strided,
}


def main(output: Path, *formats: str) -> None:
    """Train and write."""
    model, flowers = train()
    for each in formats:
        version = output / each / "1"
        version.mkdir(parents=True)
        WRITERS[each](model, flowers, version)
    scale = torch.linspace(0.5, 1.5, len(flowers))
    with torch.no_grad():
        scores, best = model(flowers, scale)
        layers = model.layers(flowers)
    answers = {
        name: value.tolist()
        for name, value in {
            "flowers": flowers,
            "scale": scale,
            "scores": scores,
            "best": best,
            "layers": layers,
        }.items()
    }
    (output / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
