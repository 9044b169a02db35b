"""The report after a start, for a user at the terminal: models, addresses, an example request."""

from __future__ import annotations

import json
from collections.abc import Iterator

from servable._server.commands import example_requests
from servable._server.commands.model_description import described_by
from servable._server.config.flags import Flags
from servable._server.server import ModelServer
from servable._server.startup import StartSummary
from servable.errors import ServableError
from servable.signature import DEFAULT_SIGNATURE

__all__ = ["text"]

_MOST_MODELS = 10


def text(server: ModelServer, flags: Flags) -> str:
    """The report, in a few lines."""
    return "".join(f"{line}\n" for line in _lines(server, flags))


def _lines(server: ModelServer, flags: Flags) -> Iterator[str]:
    summary = server.summary()
    serving = sum(bool(model.versions) for model in summary.models)
    yield ""
    yield f"  {serving} of {len(summary.models)} models serve after {summary.seconds:.1f} s:"
    # Models that do not serve come first, because they need action.
    for model in sorted(summary.models, key=lambda model: bool(model.versions))[:_MOST_MODELS]:
        versions = ", ".join(map(str, model.versions))
        word = "version" if len(model.versions) == 1 else "versions"
        state = f"{word} {versions}" if versions else model.problem
        yield f"    {model.name} ({model.platform}): {state}"
    if len(summary.models) > _MOST_MODELS:
        yield f"    and {len(summary.models) - _MOST_MODELS} more"
    scheme = "https" if summary.has_tls else "http"
    url = f"{scheme}://localhost:{summary.rest_port}"
    if summary.rest_port:
        yield f"  REST: {url}"
    if summary.grpc_port:
        yield f"  gRPC: localhost:{summary.grpc_port}"
    for address in summary.other_addresses:
        yield f"  both: {address}"
    if summary.rest_port and (request := _request(server, summary, flags, url)):
        yield "  Try it from another terminal:"
        yield from (f"    {line}" for line in request.splitlines())
    yield ""


def _request(server: ModelServer, summary: StartSummary, flags: Flags, url: str) -> str | None:
    """A request for the first model that has one."""
    for model in summary.models:
        if not model.versions:
            continue
        try:
            # Read in the process: a request to the server's port would be counted as a client's.
            metadata = json.loads(server.metadata(model.name, model.versions[0]))
            signatures = described_by(metadata, model.name, url).signatures
        except ServableError:
            continue  # the version has been unloaded, or has no signatures
        # The default signature first, then those without feature names.
        names = sorted(signatures, key=lambda name: (name != DEFAULT_SIGNATURE, name))
        for name in names:
            signature = signatures[name]
            if signature.method != "predict" and not signature.example:
                continue
            command = example_requests.curl(url, model.name, name, signature)
            if command is not None:
                return _with_credentials(command, summary, flags)
    return None


def _with_credentials(command: str, summary: StartSummary, flags: Flags) -> str:
    options = []
    if summary.has_tls:
        options.append("-k" if not flags.tls_client_ca_file else "-k --cert CERTIFICATE --key KEY")
    if summary.asks_for_keys:
        options.append('-H "authorization: Bearer $API_KEY"')
    return command.replace("curl ", " ".join(["curl", *options, ""]), 1)
