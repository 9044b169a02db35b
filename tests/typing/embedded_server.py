"""A user's program with its own main loop. It is type-checked, not run: `make types`."""

from __future__ import annotations

from servable import Flags, ModelServer
from servable.errors import Code, ServableError


def serve_until_told(base_path: str) -> bool:
    """Serve one model on a free port until a line is entered."""
    flags = Flags(model_name="turtle3", model_base_path=base_path, port=8500)
    try:
        server = ModelServer(flags)
        server.start()
    except ServableError as error:
        code: Code = error.code
        print(f"{code.name}: {error.message}")
        return False
    port: int = server.ports[0]
    input(f"Serving on port {port}; Enter stops. ")
    return server.stop()
