"""What every request to the search page must be, before anything looks into it.

A page of another site must not be able to search here, by whatever name it calls this
machine; a body must be small and come soon; a browser must load nothing but our own.
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

# Where a link of another site may lead.
_PAGES = {"/", "/api"}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """ASGI middleware that refuses requests, and adds headers to answers."""

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        names: Collection[str],
        body_bytes: int,
        body_seconds: float = 60.0,
    ):
        """Wraps `app`.

        Args:
          names: host names by which this server may be called, besides localhost and
            numeric addresses. Any other name may have been pointed here by its owner.
          body_bytes: of a request, at most.
          body_seconds: in which a body must have come.
        """
        self._app, self._names = app, {"localhost", *map(str.lower, names)}
        self._body_bytes, self._body_seconds = body_bytes, body_seconds

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} is spoken here")

        async def send_guarded(message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        fault = self._fault(scope["path"], Headers(scope=scope))
        if fault is not None:
            code, reason = fault
            response = JSONResponse({"detail": reason}, code, {"connection": "close"})
            await response(scope, receive, send_guarded)
            return
        await self._app(scope, self._bounded(receive), send_guarded)

    def _fault(self, path: str, headers: Headers) -> tuple[int, str] | None:
        """Status and reason of a refusal."""
        host = headers.get("host", "")
        name = _name(host)
        if name is None or not (name in self._names or _is_address(name)):
            return 421, f"called by the unknown name {host!r}: see --names"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "a page of another site asks"
        site = headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") and path not in _PAGES:
            return 403, "a page of another site asks"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._body_bytes:
            return 413, self._too_large
        return None

    @property
    def _too_large(self) -> str:
        return f"larger than {self._body_bytes / 1e6:.0f} MB: send a smaller file"

    def _bounded(self, receive):
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._body_seconds
        size, more = 0, True

        async def bounded():
            nonlocal size, more
            if not more:  # the body is here: what comes is the end of the connection
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the request took too long to come") from None
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
            if size > self._body_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return bounded


def _name(host: str) -> str | None:
    """The name in a Host header, without its port; None if there is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
