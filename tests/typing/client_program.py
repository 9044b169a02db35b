"""A user's program that calls a server. It is type-checked, not run: `make types`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from servable.client import AsyncClient, Class, Client, Retry, State, Tls
from servable.errors import NotFoundError


def halves(address: str) -> npt.NDArray[np.float32]:
    """Request predictions in each way."""
    with Client(address, timeout=5, retry=Retry(attempts=3), headers={"x-user": "me"}) as client:
        client.wait_until_ready("half_plus_two", timeout=None)
        if not any(s.state is State.AVAILABLE for s in client.status("half_plus_two")):
            return np.zeros(0, np.float32)
        try:
            prediction = client.predict("half_plus_two", [1.0, 2.0], label="stable", outputs=["y"])
        except NotFoundError as error:
            print(error.message)
            prediction = client.model("half_plus_two", version=3).predict(
                x=np.array([1, 2], np.float32)
            )
        version: int | None = prediction.version
        print(version, client.metadata("half_plus_two").signature().inputs["x"].dtype)
        best: list[Class] = client.classify("half_plus_two", [{"x": 1.0, "words": ["a"]}])[0]
        print(best[0].label, best[0].score)
        values: npt.NDArray[np.float32] = prediction["y"]
        return values


async def ask(address: str) -> npt.NDArray[np.float32]:
    """The same from an event loop."""
    tls = Tls(ca="ca.pem", certificate="me.pem", key="me.key")
    async with AsyncClient(address, tls=tls, api_key="secret") as client:
        return (await client.model("half_plus_two").predict(1.0)).value
