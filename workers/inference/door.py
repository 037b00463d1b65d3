"""What of vLLM's server is open: what is promised, and nothing beside it."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

OPEN = ("/health", "/metrics")
GUARDED = "/v1/"  #: vLLM asks for the key here; `/invocations` answers questions too, and does not ask


class Door:
    """ASGI middleware: 404 for every path that is neither `OPEN` nor below `GUARDED`."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN or scope["path"].startswith(GUARDED):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})
        else:
            await send({"type": "websocket.close", "code": 1008})
