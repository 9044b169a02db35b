"""The metrics page of a server, read with the parser of Prometheus' client library."""

from __future__ import annotations

import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from support.server_process import ServerProcess

PATH = "/monitoring/prometheus/metrics"

Page = dict[str, dict[tuple[tuple[str, str], ...], float]]


def monitoring_flag(directory: Path, text: str = "prometheus_config { enable: true }") -> str:
    """The flag and file that enable the page."""
    file = directory / "monitoring.config"
    file.write_text(text)
    return f"--monitoring_config_file={file}"


def scrape(server: ServerProcess, path: str = PATH) -> Page:
    """Every sample by its name and labels."""
    reply = server.get(path)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain"), reply.body
    text = reply.body.decode()
    declared = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    samples: Page = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # The parser appends this to the names of all counters.
            name = sample.name if sample.name in declared else sample.name.removesuffix("_total")
            points = samples.setdefault(name, {})
            labels = tuple(sample.labels.items())
            assert labels not in points, f"{name}{labels} twice"
            points[labels] = sample.value
    return samples


def labels(**values: str) -> tuple[tuple[str, str], ...]:
    """The names of the labels, in the order of the page."""
    return tuple(values.items())


_REQUEST_COUNTS = (":tensorflow:serving:request_count", "servable_version_requests_total")


class Growth:
    """The increase of a page's samples since the start of a test."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._before = scrape(server)
        # Earlier requests, such as those that wait for the server, may still be answered.
        while True:
            time.sleep(0.1)
            before, self._before = self._before, scrape(server)
            if all(before.get(name) == self._before.get(name) for name in _REQUEST_COUNTS):
                break

    def __call__(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        before = self._before.get(name, {})
        now = scrape(self._server).get(name, {})
        grown = {labels: value - before.get(labels, 0) for labels, value in now.items()}
        return {labels: value for labels, value in grown.items() if value}
