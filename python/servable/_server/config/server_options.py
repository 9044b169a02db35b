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
    """An address to listen on. Each serves REST over HTTP/1.1 and HTTP/2, and gRPC.

    Attributes:
        address: `host:port`, IPv6 hosts in brackets; port 0 selects a free one. `[::]` also accepts IPv4. Or
            `unix:PATH`.
        tls: Whether connections use TLS.
        offer: The requests that are answered: `everything`; `rest`, without gRPC and administration, which another
            address offers with TLS; `health` checks; or the `administration` API. The last two are answered before the
            server opens.
    """

    address: str
    tls: bool = False
    offer: Offer = "everything"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The options of the request path at the start.

    Rust reads the fields by name; a test compares the two lists.

    Attributes:
        endpoints: The addresses to listen on.
        socket_mode: The permissions of Unix sockets; `None` leaves them to the umask.
        worker_threads: The number of threads that read, decode, run small models and answer.
        rest_timeout_seconds: The time limit of one REST request's run; 0 or less for none (`--rest_api_timeout_in_ms`).
        enable_cors: Send the CORS headers on REST answers (`--rest_api_enable_cors_support`).
        cors_allowed_headers: The headers that web pages may send; empty for `Content-Type`, and those of keys where
            keys are required (`--rest_api_cors_allowed_headers`).
        tensor_content_responses: Answer gRPC with `tensor_content` instead of typed fields
            (`--enable_serialization_as_tensor_content`).
        check_method_names: Require signatures' method names to match the call (`--enable_signature_method_name_check`).
        model_repository: Offer the model repository of the Open Inference Protocol (`--admin_api_port`).
        grpc: Options of gRPC calls and of HTTP/2 connections.
        max_body_bytes: The maximum size of a request body, also after decompression.
        max_total_body_bytes: The memory limit for all current request bodies and all answers that clients have not
            read.
        max_decompressed_bytes: The maximum size of a request body after decompression, if that is lower.
        max_header_bytes: The maximum size of a request head, as HTTP/2 counts: names and values, and 32 for each
            header.
        max_headers: The maximum number of headers of a request.
        max_json_nesting: The maximum nesting of a request's JSON.
        max_connections: The maximum number of open connections; further ones wait to be accepted.
        idle_timeout_seconds: How long a connection may be idle.
        header_timeout_seconds: The time limit for the head of a request, and for a TLS handshake.
        body_timeout_seconds: The time limit between two parts of a body.
        min_body_bytes_per_second: The minimum average rate of a body in several parts, with `body_timeout_seconds` in
            addition.
        open_paths: Further paths without API keys where other paths require one.
        admin_hosts: The host names and addresses of the administration API, in addition to loopback addresses and the
            address of the connection.
        metrics_path: The path of the metrics page; empty for none (`--monitoring_config_file`).
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
