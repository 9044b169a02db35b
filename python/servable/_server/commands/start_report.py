"""What a start has come to, for the person who has started the server: models, addresses, one request to paste."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from servable._server.commands import example_requests
from servable._server.commands.model_description import SignatureDescription, fetch, read_version
from servable._server.config.flags import Flags
from servable._server.startup import StartedModel, StartSummary
from servable.errors import ServableError
from servable.signature import DEFAULT_SIGNATURE
from servable.sources._filesystem import parse_version

__all__ = ["text"]

_MOST_MODELS = 10


def text(summary: StartSummary, flags: Flags) -> str:
    """The report, in a few lines."""
    return "".join(f"{line}\n" for line in _lines(summary, flags))


def _lines(summary: StartSummary, flags: Flags) -> Iterator[str]:
    serving = sum(bool(model.versions) for model in summary.models)
    yield ""
    yield f"  {serving} of {len(summary.models)} models serve after {summary.seconds:.1f} s:"
    # Those that do not serve first: there is something to do about them.
    for model in sorted(summary.models, key=lambda model: bool(model.versions))[:_MOST_MODELS]:
        versions = ", ".join(map(str, model.versions))
        word = "version" if len(model.versions) == 1 else "versions"
        yield f"    {model.name}: {f'{word} {versions}' if versions else model.problem}"
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
    if summary.rest_port and (request := _request(summary, flags, url)):
        yield "  Try it from another terminal:"
        yield from (f"    {line}" for line in request.splitlines())
    yield ""


def _request(summary: StartSummary, flags: Flags, url: str) -> str | None:
    """A request for the first model that has one."""
    for model in summary.models:
        if not model.versions:
            continue
        signatures = _signatures(model, summary, flags, url)
        # The default signature first, then those without features to name.
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


def _signatures(
    model: StartedModel, summary: StartSummary, flags: Flags, url: str
) -> Mapping[str, SignatureDescription]:
    try:
        if not (summary.has_tls or summary.asks_for_keys):
            return fetch(url, model.name, model.versions[0]).signatures
        return read_version(
            _directory(model.base_path, model.versions[0]), flags.saved_model_tags.split(",")
        )
    except (ServableError, OSError):
        return {}  # a report without an example is one, too


def _directory(base_path: str, version: int) -> str:
    with os.scandir(base_path) as entries:
        found = [entry.path for entry in entries if parse_version(entry.name) == version]
    return found[0] if found else base_path
