"""`servable inspect`: prints the signatures of a model, with an example request for each."""

from __future__ import annotations

import argparse
import sys
import textwrap
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence

from servable._server.commands import example_requests
from servable._server.commands.model_description import ModelDescription, fetch
from servable._server.config.flags import Flags
from servable._server.config.models import ModelConfig
from servable._server.model_paths import find_models, version_of
from servable.errors import InvalidInputError, ServableError
from servable.lifecycle._states import status_text
from servable.loaders._description import SignatureDescription, TensorDescription
from servable.platforms import Platform, PlatformContext, find_platforms

_DEFAULT_URL = "http://localhost:8500"
_MODELS_PATH = "/v1/models/"
_LONGEST_PROPERTY = 500


def run(program: str, arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        program: The name of the program.
        arguments: The arguments after `inspect` on the command line.

    Returns:
        The exit status.
    """
    options = _parser(program).parse_args(arguments)
    try:
        model, url, address = _described(options)
    except ServableError as error:
        print(status_text(error), file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(error, file=sys.stderr)
        return 1
    except Exception as error:  # the border to code of others
        print(f"{options.model}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"Model {model.name}, version {'unknown' if model.version is None else model.version}")
    print(f"in {model.place}")
    for name, text in model.properties.items():
        print(_property(name, text))
    for name, signature in model.signatures.items():
        print("\n" + "\n".join(_signature(model.name, url, address, name, signature)))
    return 0


def _described(options: argparse.Namespace) -> tuple[ModelDescription, str, str]:
    """The model, the URL of its REST API, and the address for Python's client."""
    if options.model.startswith(("http://", "https://")):
        url, name = _server(options.model, options.name)
        url_shown = options.url or url
        return fetch(url, name, options.version), url_shown, url_shown
    platforms = find_platforms(PlatformContext(Flags(saved_model_tags=options.saved_model_tags)))
    model = _only_model(options, platforms)
    number, path = version_of(model, options.version)
    platform = platforms[model.platform]
    described = ModelDescription(
        options.name or model.name,
        number,
        path,
        platform.describe(path),
        platform.properties(path),
    )
    url = options.url or _DEFAULT_URL
    return described, url, url.partition("://")[2]  # every port of this server takes gRPC


def _only_model(options: argparse.Namespace, platforms: Mapping[str, Platform]) -> ModelConfig:
    """The model in a path; the one with the given name if there are several."""
    models = find_models([options.model], platforms).models
    if len(models) == 1:
        return models[0]
    for model in models:
        if model.name == options.name:
            return model
    names = ", ".join(model.name for model in models)
    raise InvalidInputError(f"{options.model} contains several models; give one of {names} as NAME")


def _server(url: str, name: str | None) -> tuple[str, str]:
    """The address of a server and the name of a model, from a URL that may contain both."""
    base, slash, rest = url.partition(_MODELS_PATH)
    if slash and not name:
        name = urllib.parse.unquote(rest.partition("/")[0].partition(":")[0])
    if not name:
        raise InvalidInputError(f"Name the model: servable inspect {url} MODEL")
    return base.rstrip("/"), name


def _property(name: str, text: str) -> str:
    """A line for a property; a model can neither add lines nor control the terminal."""
    shown = text if len(text) <= _LONGEST_PROPERTY else f"{text[:_LONGEST_PROPERTY]} ..."
    line = f"{name}: {shown}"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


def _signature(
    model: str, url: str, address: str, name: str, signature: SignatureDescription
) -> Iterator[str]:
    yield f"Signature {name} ({signature.method})"
    yield from _tensors("inputs", signature.inputs)
    yield from _tensors("outputs", signature.outputs)
    if signature.method != "predict" and not signature.example:
        yield "\n  Put the names of the model's features in place of FEATURE:"
    command = example_requests.curl(url, model, name, signature)
    yield "\n  As curl:\n"
    yield textwrap.indent(command or "# " + _why_no_command(signature), "    ")
    if command is None:
        address = address.rpartition("://")[2]
    program = example_requests.python(address, model, name, signature)
    yield "\n  As Python:\n"
    yield textwrap.indent(program, "    ")


def _why_no_command(signature: SignatureDescription) -> str:
    if not signature.inputs:
        return "REST requests need an input; use gRPC"
    return "JSON has no values of these dtypes; use gRPC"


def _tensors(title: str, tensors: Mapping[str, TensorDescription]) -> Iterator[str]:
    width = max(map(len, tensors), default=0)
    yield f"  {title}" + ("" if tensors else ": none")
    for name, tensor in tensors.items():
        yield f"    {name:<{width}}  {tensor}"


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{program} inspect",
        allow_abbrev=False,
        description="Print the signatures of a model, with a request to paste for each. Nothing is "
        "run; models in Python are imported.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="the path of a model, or the URL of a server")
    add(
        "name",
        nargs="?",
        metavar="NAME",
        help="the model's name, or which one of several models in a directory",
    )
    add("--version", type=int, metavar="N", help="the version; the highest one by default")
    add("--saved_model_tags", default="serve", metavar="TAGS", help="as the flag of the server")
    add("--url", metavar="URL", help=f"where requests are sent; {_DEFAULT_URL} for a directory")
    return parser
