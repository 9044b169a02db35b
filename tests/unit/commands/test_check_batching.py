from __future__ import annotations

from pathlib import Path

from servable._server.commands.check_batching import check_batching
from servable._server.commands.report import Report
from servable._server.config.batching import BatchingParameters, ModelBatching, PlatformBatching
from servable.loaders._description import SignatureDescription, TensorDescription

UP_TO_8 = PlatformBatching(BatchingParameters(max_batch_size=8))
PER_MODEL = PlatformBatching(BatchingParameters(), per_model=True)


def tensor(*shape: int | None) -> TensorDescription:
    return TensorDescription("float32", shape)


def findings(
    batching: PlatformBatching,
    path: Path,
    **signatures: tuple[TensorDescription, TensorDescription],
) -> list[str]:
    report = Report()
    described = {
        name: SignatureDescription("predict", {"x": input_}, {"y": output})
        for name, (input_, output) in signatures.items()
    }
    check_batching(str(path), batching, ModelBatching(), described, report)
    return [str(finding).replace(f"{path}", "V") for finding in report.findings]


def test_signatures_with_rows_can_be_batched(tmp_path: Path) -> None:
    unknown = TensorDescription("float32", None)
    assert not findings(
        UP_TO_8, tmp_path, rows=(tensor(None, 3), tensor(None)), unknown=(unknown, unknown)
    )


def test_signatures_without_rows_cannot_be_batched(tmp_path: Path) -> None:
    found = findings(
        UP_TO_8,
        tmp_path,
        scalar=(tensor(), tensor(None)),
        single=(tensor(1, 3), tensor(1)),
        summing=(tensor(None), tensor()),
        wide=(tensor(8, 3), tensor(8)),
        top3=(tensor(None), tensor(3)),
    )
    reasons = {
        "scalar": "input x is a scalar, and its requests will be refused",
        "single": "axis 0 of input x is always 1, so that joined requests fail",
        "summing": "output y is a scalar, and cannot be split among requests",
        "top3": "axis 0 of output y is always 3, whatever the batch is",
    }
    assert found == [
        f"warning: V: Signature {name} cannot be batched: {reason}"
        for name, reason in reasons.items()
    ]


def test_the_parameters_of_a_version_are_checked(tmp_path: Path) -> None:
    scalar = (tensor(), tensor())
    assert findings(PER_MODEL, tmp_path, scalar=scalar) == []
    file = tmp_path / "batching_params.pbtxt"
    file.write_text("max_batch_size { value: 2 }\nallowed_batch_sizes: [1]")
    (found,) = findings(PER_MODEL, tmp_path, scalar=scalar)
    assert found.startswith("error: V/batching_params.pbtxt: Last entry in allowed_batch_sizes")
    file.write_text("max_batch_size { value: 2 }\nallowed_sizes: [1]")
    (found,) = findings(PER_MODEL, tmp_path, scalar=scalar)
    assert found.startswith("error: V/batching_params.pbtxt:2: Not a BatchingParameters message")
    file.write_text("max_batch_size { value: 2 }")
    assert len(findings(PER_MODEL, tmp_path, scalar=scalar)) == 2
