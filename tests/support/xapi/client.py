"""A small client of the pool: what hosts answer, as it comes."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tests.support.xapi.pool import PASSWORD
from tests.support.xapi.recording import parse
from tests.support.xapi.records import ApiError

if TYPE_CHECKING:
    from tests.support.xapi.pool import Host, Pool


class Client:
    """Speaks JSON-RPC to the master, and fetches from any host."""

    def __init__(self, pool: Pool, user: str = "monitor") -> None:
        self._pool = pool
        #: For how many seconds `get` waits for an answer; to connect may take longer.
        self.timeout = 60.0
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        self.session = str(self.call("session.login_with_password", user, PASSWORD, session=False))

    def connect(self, host: Host) -> http.client.HTTPSConnection:
        address, port = host.server.address
        return http.client.HTTPSConnection(address, port, timeout=60, context=self._tls)

    def post(self, host: Host, path: str, body: str, **headers: str) -> tuple[Any, bytes]:
        """Return the headers and the body of an answer."""
        connection = self.connect(host)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("POST", path, body.encode(), named)
            response = connection.getresponse()
            return response.headers, response.read()
        finally:
            connection.close()

    def call(
        self, method: str, *params: Any, host: Host | None = None, session: bool = True
    ) -> Any:
        """Return what a method returns, or raise ApiError."""
        if session:
            params = (self.session, *params)
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        at = host or self._pool.hosts[self._pool.master]
        answer = json.loads(self.post(at, "/jsonrpc", json.dumps(request))[1])
        if "error" in answer:
            raise ApiError(answer["error"]["message"], *answer["error"]["data"])
        return answer["result"]

    def events(self, token: str = "", *classes: str, timeout: float = 0.0) -> tuple[list[Any], str]:
        """Return the events since a token, and the new one."""
        answer = self.call("event.from", classes or ("*",), token, timeout)
        return answer["events"], answer["token"]

    def get(
        self, path: str, at: int = 0, accept: str = "text/xml", **query: Any
    ) -> tuple[http.client.HTTPResponse, str]:
        """Fetch from a host, and return the answer and its body."""
        connection = self.connect(self._pool.hosts[at])
        headers = {"Cookie": f"session_id={self.session}", "Accept": accept}
        try:
            connection.connect()
            connection.sock.settimeout(self.timeout)
            connection.request("GET", f"{path}?{urlencode(query, doseq=True)}", headers=headers)
            response = connection.getresponse()
            return response, response.read().decode()
        finally:
            connection.close()

    def legend(self, at: int = 0) -> list[str]:
        """Return the columns that a host has."""
        return parse(self.get("/rrd_updates", at, start=-10)[1]).legend

    def counter(self, uuid: str, name: str, at: int = 0) -> float:
        """Return the last reading of a source by /vm_rrd."""
        _, body = self.get("/vm_rrd", at, uuid=uuid)
        found = re.search(f"<name>{name}</name>.*?<last_ds>(.*?)</last_ds>", body)
        assert found
        return float(found[1])

    def pin(self, host: Host) -> str:
        """Return the digest of the certificate that a host shows."""
        connection = self.connect(host)
        try:
            connection.connect()
            assert isinstance(connection.sock, ssl.SSLSocket)
            certificate = connection.sock.getpeercert(binary_form=True)
            assert certificate
            digest = hashlib.sha256(certificate).hexdigest().upper()
            return ":".join(digest[n : n + 2] for n in range(0, 64, 2))
        finally:
            connection.close()
