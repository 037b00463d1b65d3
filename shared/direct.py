"""Requests to a model's server: no redirect is followed, and no proxy stands between a process and its own machine."""

import http.client
import ipaddress
import urllib.request
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit


def fetch(request: urllib.request.Request, timeout: float) -> bytes:
    """The answer's body.

    Raises:
        HTTPError: the server refuses, or points elsewhere, where key and clip are not to go.
        OSError: it does not answer, or breaks off.
    """
    own = [urllib.request.ProxyHandler({})] if _is_here(urlsplit(request.full_url).hostname or "") else []
    try:
        with urllib.request.build_opener(_NoRedirect, *own).open(request, timeout=timeout) as answer:
            return bytes(answer.read())
    except http.client.HTTPException as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from error


def _is_here(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None
