"""The findings of a check, and their output as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from servable.loaders._description import SignatureDescription


@dataclass(frozen=True, slots=True)
class Finding:
    """An error or a warning.

    Attributes:
        severity: `error` if something could not be served, otherwise `warning`.
        message: What was found and what was wanted.
        place: The file or directory; empty for the command line.
        line: The line in the file, from 1, if it is known.
    """

    severity: str
    message: str
    place: str = ""
    line: int | None = None

    def __str__(self) -> str:
        """For example `error: models.config:3: …`."""
        place = f"{self.place}:{self.line}" if self.line is not None else self.place
        return f"{self.severity}: {place}{': ' if place else ''}{self.message}"


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A version that would be served.

    Attributes:
        version: The version number.
        path: Its directory.
        labels: Its labels.
        signatures: Its signatures.
    """

    version: int
    path: str
    labels: tuple[str, ...] = ()
    signatures: Mapping[str, SignatureDescription] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that would be served."""

    name: str
    base_path: str
    platform: str
    versions: list[ServedVersion] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """All findings of a check, in order."""

    findings: list[Finding] = field(default_factory=list)
    models: list[ServedModel] = field(default_factory=list)

    def error(self, message: str, place: str = "", line: int | None = None) -> None:
        """Add an error: something could not be served."""
        self._add(Finding("error", message, place, line))

    def warning(self, message: str, place: str = "", line: int | None = None) -> None:
        """Add a warning."""
        self._add(Finding("warning", message, place, line))

    def _add(self, finding: Finding) -> None:
        if finding not in self.findings:
            self.findings.append(finding)

    @property
    def errors(self) -> int:
        """The number of errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def is_good(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def text(self) -> str:
        """The report as text."""
        return "".join(f"{line}\n" for line in self._lines())

    def json(self) -> str:
        """The report as JSON."""
        document = {"is_good": self.is_good, **dataclasses.asdict(self)}
        return json.dumps(document, indent=2) + "\n"

    def _lines(self) -> Iterator[str]:
        for model in self.models:
            yield f"{model.name}: {model.platform} model in {model.base_path}"
            for version in model.versions:
                labels = f" ({', '.join(version.labels)})" if version.labels else ""
                yield f"  version {version.version}{labels}"
                for name, signature in version.signatures.items():
                    inputs = ", ".join(f"{key}: {spec}" for key, spec in signature.inputs.items())
                    outputs = ", ".join(f"{key}: {spec}" for key, spec in signature.outputs.items())
                    yield f"    {name} ({signature.method}): {inputs or 'nothing'} -> {outputs}"
        if self.models:
            yield ""
        yield from map(str, self.findings)
        warnings = len(self.findings) - self.errors
        yield f"{_count(self.errors, 'error')}, {_count(warnings, 'warning')}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
