"""Requests to a model's server go there and nowhere else."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import BaseServer

import pytest

from shared.direct import fetch


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.met.append(self.path)  # type: ignore[attr-defined]
        self.send_response(302 if self.path == "/elsewhere" else 200)
        self.send_header("Location", "/there")
        self.send_header("Content-Length", "9" if self.path == "/cut" else "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[tuple[str, list[str]]]:
    with HTTPServer(("127.0.0.1", 0), _Server) as server:
        met: list[str] = []
        server.met = met  # type: ignore[attr-defined]
        thread = threading.Thread(target=BaseServer.serve_forever, args=(server, 0.01))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", met
        finally:
            server.shutdown()
            thread.join()


def test_no_proxy_is_asked_for_what_is_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as (proxy, seen), serving() as (url, met):
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert fetch(urllib.request.Request(f"{url}/health"), 5) == b"ok"
        assert (seen, met) == ([], ["/health"])
        assert fetch(urllib.request.Request("http://model.invalid/health"), 5) == b"ok"
        assert seen == ["http://model.invalid/health"], "one elsewhere is reached as the environment says"


def test_a_redirect_is_not_followed() -> None:
    with serving() as (url, met):
        with pytest.raises(urllib.error.HTTPError, match="302"):
            fetch(urllib.request.Request(f"{url}/elsewhere"), 5)
        assert met == ["/elsewhere"]


@pytest.mark.parametrize("where", ["/cut", "x/"])
def test_an_answer_cut_off_and_an_address_of_no_port_are_errors_of_the_system(where: str) -> None:
    with serving() as (url, _), pytest.raises(OSError):
        fetch(urllib.request.Request(url + where), 5)
