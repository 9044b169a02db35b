"""The inputs and outputs of a model, as a server reports them."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from servable._server.config.text_proto import new_message
from servable.errors import Code, ConfigError, InvalidInputError, NotFoundError, ServableError
from servable.loaders._description import SignatureDescription, described

_SIGNATURE = "tensorflow.SignatureDef"
_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """The description of one version of a model.

    Attributes:
        name: The name in requests.
        version: The version number, if it is known.
        place: The source of the description.
        signatures: The signatures, by name.
        properties: What the files tell beside the signatures, by name.
    """

    name: str
    version: int | None
    place: str
    signatures: Mapping[str, SignatureDescription]
    properties: Mapping[str, str] = field(default_factory=dict)


def fetch(url: str, name: str, version: int | None) -> ModelDescription:
    """Fetch the description of a model from a running server.

    Args:
        url: The server, such as `http://localhost:8501`.
        name: The model.
        version: The version number; the server chooses if `None`.

    Raises:
        ServableError: The server does not answer, or has no such model.
    """
    path = f"/v1/models/{urllib.parse.quote(name, safe='')}"
    if version is not None:
        path += f"/versions/{version}"
    return described_by(_get(f"{url}{path}/metadata"), name, url)


def described_by(document: Any, name: str, url: str) -> ModelDescription:
    """Parse the metadata of a model.

    Args:
        document: The server's answer to `/v1/models/NAME/metadata`.
        name: The model.
        url: The server.

    Raises:
        InvalidInputError: It is no such document.
    """
    try:
        found = document["model_spec"]["version"]
        messages = {
            key: _parsed(value)
            for key, value in document["metadata"]["signature_def"]["signature_def"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(f"{url} does not answer with the metadata of {name}") from error
    return ModelDescription(name, int(found), url, described(messages))


def _parsed(document: Mapping[str, Any]) -> Any:
    from google.protobuf import json_format

    # Default values are not needed here, and their JSON has members that only TensorFlow can parse.
    known = {key: value for key, value in document.items() if key != "defaults"}
    try:
        return json_format.ParseDict(known, new_message(_SIGNATURE), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise InvalidInputError(f"The server's metadata is no signature: {error}") from error


def _get(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        try:
            text = json.loads(text)["error"]
        except (ValueError, KeyError, TypeError):
            text = f"{error.code} {error.reason}"
        raise NotFoundError(f"{url}: {text}") from error
    except urllib.error.URLError as error:
        raise ServableError(f"{url}: {error.reason}", code=Code.UNAVAILABLE) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{url}: {error}") from error
