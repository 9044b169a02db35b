"""Options of the request path: addresses, limits and switches."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from servable._server.config.grpc_arguments import GrpcOptions
from servable._server.config.memory import available_memory

Offer: TypeAlias = Literal["everything", "rest", "health", "administration"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to listen. Each serves REST over HTTP/1.1 and HTTP/2, and gRPC.

    Attributes:
        address: `host:port`, IPv6 hosts in brackets; port 0 takes a free one. `[::]` also takes IPv4. Or `unix:PATH`.
        tls: Whether connections begin with TLS.
        offer: Which requests are answered: `everything`; `rest`, without gRPC and administration, which are offered
            elsewhere under TLS; `health` checks; or the `administration` API. The last two are answered before the
            server opens.
    """

    address: str
    tls: bool = False
    offer: Offer = "everything"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the request path needs to know before it starts.

    Rust reads the fields by name; a test compares the two lists.

    Attributes:
        endpoints: Where to listen.
        socket_mode: The permissions of Unix sockets; `None` leaves them to the umask.
        worker_threads: Threads that read, decode, run small models and answer.
        rest_timeout_seconds: How long the run of one REST request may take; 0 or less for no limit
            (`--rest_api_timeout_in_ms`).
        enable_cors: Send the CORS headers on REST answers (`--rest_api_enable_cors_support`).
        cors_allowed_headers: Which headers web pages may send; empty for `Content-Type`, and those of keys
            where keys are asked for (`--rest_api_cors_allowed_headers`).
        tensor_content_responses: Answer gRPC with `tensor_content` instead of typed fields
            (`--enable_serialization_as_tensor_content`).
        check_method_names: Require signatures' method names to fit the call
            (`--enable_signature_method_name_check`).
        model_repository: Offer the model repository of the Open Inference Protocol (`--admin_api_port`).
        grpc: How gRPC calls, and connections of HTTP/2, are served.
        max_body_bytes: The largest request body that is taken, after decompression too.
        max_total_body_bytes: How much memory all request bodies under way, and all answers that clients have not taken,
            may have together.
        max_decompressed_bytes: The largest request body after decompression, where that is less.
        max_header_bytes: The largest head of a request, as HTTP/2 counts: names and values, and 32 for each header.
        max_headers: How many headers a request may have.
        max_json_nesting: How deeply the JSON of a request may be nested.
        max_connections: How many connections may be open at once; further ones wait to be accepted.
        idle_timeout_seconds: How long a connection may be idle.
        header_timeout_seconds: How long a client may take to send the head of a request, and for a TLS handshake.
        body_timeout_seconds: How long a client may take between two parts of a body.
        min_body_bytes_per_second: How fast a body of several parts has to come on average, `body_timeout_seconds` on
            top.
        open_paths: Further paths that need no API key where others do.
        admin_hosts: The names and addresses under which the administration API answers, beside loopback addresses and
            the one that a connection came to.
        metrics_path: Where the metrics page is; empty for none (`--monitoring_config_file`).
    """

    endpoints: tuple[Endpoint, ...]
    socket_mode: int | None = None
    worker_threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    rest_timeout_seconds: float = 30.0
    enable_cors: bool = False
    cors_allowed_headers: str = ""
    tensor_content_responses: bool = False
    check_method_names: bool = False
    model_repository: bool = False
    grpc: GrpcOptions = field(default_factory=GrpcOptions)
    max_body_bytes: int = 2**31 - 1
    max_total_body_bytes: int = field(default_factory=lambda: available_memory() // 4)
    max_decompressed_bytes: int = 100 * 1024 * 1024
    max_header_bytes: int = 64 * 1024
    max_headers: int = 100
    max_json_nesting: int = 10_000_000
    max_connections: int = 16384
    idle_timeout_seconds: float = 120.0
    header_timeout_seconds: float = 50.0
    body_timeout_seconds: float = 50.0
    min_body_bytes_per_second: int = 500
    open_paths: tuple[str, ...] = ()
    admin_hosts: tuple[str, ...] = ()
    metrics_path: str = ""
