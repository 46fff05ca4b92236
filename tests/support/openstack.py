"""Keystone and Nova's API, as far as Ceilometer's compute agent asks them."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

if TYPE_CHECKING:
    from types import TracebackType


class OpenStack:
    """Any user may log in, there is one flavor, and the servers are those that are given."""

    def __init__(self, servers: list[dict[str, Any]] | None = None) -> None:
        self.servers = servers or []
        sizes = {"vcpus": 1, "ram": 512, "disk": 1, "OS-FLV-EXT-DATA:ephemeral": 0}
        self.flavor = {"id": "42", "name": "m1.small", **sizes}
        #: Method and path of each request.
        self.asked: list[str] = []

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.openstack = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where Keystone is."""
        return f"http://127.0.0.1:{self._server.server_port}/v3"

    def answer(self, method: str, path: str) -> Any:
        """Return what is said to a request, or None."""
        self.asked.append(f"{method} {path}")
        nova = self.url.replace("v3", "v2.1")
        resource = path.partition("?")[0]
        if resource == "/v3/auth/tokens":
            urls = [{"interface": "public", "region_id": "r", "region": "r", "url": nova}]
            catalog = [{"type": "compute", "name": "nova", "id": "1", "endpoints": urls}]
            user = {"id": "1", "name": "u", "domain": {"id": "default", "name": "Default"}}
            token = {"methods": ["password"], "user": user, "catalog": catalog}
            return {"token": {**token, "expires_at": "2100-01-01T00:00:00.000000Z"}}
        if resource == "/v3":
            links = [{"rel": "self", "href": self.url}]
            return {"version": {"id": "v3.14", "status": "stable", "links": links}}
        flavors, servers = "/v2.1/flavors", "/v2.1/servers"
        return {
            f"{flavors}/detail": {"flavors": [self.flavor]},
            f"{flavors}/42": {"flavor": self.flavor},
            f"{servers}/detail": {"servers": self.servers},
        }.get(resource)


class Handler(BaseHTTPRequestHandler):
    """A request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        told = self.server.openstack.answer(self.command, self.path)  # type: ignore[attr-defined]
        body = json.dumps(told or {}).encode()
        self.send_response(404 if told is None else 201 if self.command == "POST" else 200)
        self.send_header("X-Subject-Token", "token")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the base class calls it so

    def log_message(self, *_: object) -> None:
        """Say nothing."""
