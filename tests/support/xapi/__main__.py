"""A simulated pool in a process of its own, until its standard input ends.

It prints one line of JSON: virtmeter's `uri`, the `urls` and `pins` of the hosts, the `password`,
and the address of a small HTTP server, `control`:

    GET  /calls    how often what was asked: [[host, what, times], ...]
    GET  /truth?uuid=...&name=...&time=...    what a source really was
    POST /forget   count anew
    POST /fail     {"host": 0, "path": "/rrd_updates", "hang": "head"}: see faults.py
    POST /heal     end all faults
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from tests.support.xapi.pool import PASSWORD, Pool
from tests.support.xapi.recording import SETS, recording
from tests.support.xapi.synthetic import SOURCES, synthetic

if TYPE_CHECKING:
    from collections.abc import Callable


def control(pool: Pool) -> ThreadingHTTPServer:
    """Return a server by which another process can look at the pool, and break it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fields = dict(parse_qsl(urlsplit(self.path).query))
            if self.path == "/calls":
                calls = sorted(pool.calls.items())
                self._answer([[host, name, times] for (host, name), times in calls])
            elif self.path.startswith("/truth?"):
                time = float(fields["time"])
                self._answer(pool.truth(fields["uuid"], fields["name"], time))
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            fields: dict[str, Any] = json.loads(body or b"{}")
            if self.path == "/forget":
                pool.forget()
            elif self.path == "/fail":
                pool.hosts[fields.pop("host")].fail(**fields)
            elif self.path == "/heal":
                for host in pool.hosts:
                    host.heal()
            else:
                self.send_error(404)
                return
            self._answer(None)

        def _answer(self, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def played(data: str, hosts: int, speed: float) -> Pool:
    """Return a pool that plays a recording from its first minute on, as time passes."""
    began, start = time.monotonic(), recording(data).start + 60
    now: Callable[[], float] = lambda: start + (time.monotonic() - began) * speed  # noqa: E731
    return Pool(data, hosts=hosts, now=now)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--vms", type=int, default=16, help="on each host")
    parser.add_argument("--sources", type=int, default=len(SOURCES), help="of each VM")
    parser.add_argument("--delay", type=float, default=0.0, help="of each answer, in seconds")
    parser.add_argument("--data", choices=SETS, help="play a recording instead, ten minutes long")
    parser.add_argument("--speed", type=float, default=1.0, help="of the recording")
    given = parser.parse_args()
    if given.data:
        made = played(given.data, given.hosts, given.speed)
    else:
        made = synthetic(given.hosts, given.vms, given.sources, given.delay)
    with made as pool, control(pool) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        told = {
            "uri": pool.uri(),
            "urls": [host.url for host in pool.hosts],
            "pins": [host.certificate.sha256 for host in pool.hosts],
            "user": "monitor",
            "password": PASSWORD,
            "control": "http://{}:{}".format(*server.server_address[:2]),
        }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.buffer.read()
        server.shutdown()
        serving.join()


if __name__ == "__main__":
    main()
