"""What a host answers to GET, and to the calls of XAPI."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING

from tests.support.xapi.connection import Request, Response
from tests.support.xapi.metrics import ARCHIVES, LibraryError, Query, Rrd
from tests.support.xapi.records import ApiError

if TYPE_CHECKING:
    from tests.support.xapi.pool import Host, Pool
    from tests.support.xapi.release import Release
    from tests.support.xapi.wire import JsonRpc, XmlRpc

ASKS_THUMBPRINT = "x-xenapi-request-host-certificate-thumbprint"
TELLS_THUMBPRINT = "x-xenapi-response-host-certificate-thumbprint"


def failure(status: int, text: str) -> Response:
    body = f"<html><body><h1>HTTP {status}</h1>{text}</body></html>"
    headers = {"Content-Type": "text/html"}
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="XenServer"'
    return Response(status, body.encode(), headers)


def call(
    pool: Pool, host: Host, request: Request, rpc: JsonRpc | XmlRpc, error: tuple[str, ...]
) -> Response:
    """Answer a call; with an error, if one is given."""
    headers = {"Content-Type": rpc.content_type}
    try:
        if error:
            raise ApiError(*error)
        text = rpc.result(pool.rpc.call(host, rpc.method, list(rpc.params)))
    except ApiError as raised:
        text = rpc.error(raised)
        asks = request.headers.get(ASKS_THUMBPRINT) == "sha-256:master"
        if raised.code == "HOST_IS_SLAVE" and asks and pool.release.tells_thumbprints:
            headers[TELLS_THUMBPRINT] = pool.hosts[pool.master].certificate.sha256
    return Response(200, text.encode(), headers, close=False)


def get(pool: Pool, host: Host, request: Request) -> Response:
    if request.path not in ("/rrd_updates", "/vm_rrd"):
        return failure(404, "no such page")
    if host.index != pool.master and pool.hosts[pool.master].is_away:
        return failure(500, "the session cannot be checked: the master does not answer")
    role = pool.sessions.role(_session(request))
    if role is None:
        return failure(401, "Unauthorised")
    if role == "none":
        return failure(403, "Forbidden")
    if not host.rrdd:
        return failure(404, "xcp-rrdd does not answer")
    try:
        as_json = _wants_json(pool.release, request)
        if request.path == "/rrd_updates":
            return _rrd_updates(pool, host, request, as_json)
        return _vm_rrd(pool, host, request, as_json)
    except LibraryError as error:
        return failure(500, f"Internal error: {error}")


def _session(request: Request) -> str:
    """Return the session, from the cookie first, then from the query."""
    for part in request.headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == "session_id":
            return value
    return request.query.get("session_id", [""])[0]


def _wants_json(release: Release, request: Request) -> bool:
    asked = request.query.get("json", ["false"])[0] == "true"
    accept = request.headers.get("accept")
    if not release.accepts_json or accept is None:
        return asked
    kinds = [part.split(";")[0].strip() for part in accept.split(",")]
    for kind in kinds:
        if "/" not in kind:
            if release < (25, 7, 0):
                raise LibraryError(f"cannot parse Accept: {accept}")
            return asked
        if kind in ("application/json", "*/*", "application/*"):
            return True
        if kind == "text/xml":
            return False
    return asked


def _rrd_updates(pool: Pool, host: Host, request: Request, as_json: bool) -> Response:
    fields = {name: values[-1] for name, values in request.query.items()}
    try:
        start = int(fields["start"])
        interval = int(fields.get("interval", "5"))
    except (KeyError, ValueError):
        return failure(400, "start is missing")
    query = Query(
        start - host.clock if start >= 0 else start,
        interval,
        fields.get("cf"),
        fields.get("host") == "true",
        tuple(request.query.get("vm_uuid", ())),
        as_json,
    )
    body = pool.metrics.updates(host.index, pool.now, query, host.clock)
    kind = "application/json" if as_json else "text/xml"
    return Response(200, body.encode(), {"Content-Type": kind})


def _vm_rrd(pool: Pool, host: Host, request: Request, as_json: bool) -> Response:
    uuid = request.query.get("uuid", [""])[0]
    guest = pool.metrics.guests.get(uuid)
    if guest is None:
        return failure(404, "no such VM")
    there = pool.master if guest.host is None else guest.host
    if there != host.index:
        location = f"{pool.hosts[there].url}{request.target}"
        return Response(302, b"", {"Location": location})
    rrd = pool.metrics.rrd(uuid, pool.now)
    if rrd is None:
        return failure(404, "no such RRD")
    body = (
        _rrd_json(rrd, pool.release, host.clock)
        if as_json
        else _rrd_xml(rrd, pool.release, host.clock)
    )
    kind = "application/json" if as_json else "text/xml"
    return Response(200, body.encode(), {"Content-Type": kind}, has_length=False)


def _rrd_xml(rrd: Rrd, release: Release, clock: int) -> str:
    heartbeat = release.number(300)
    sources = "".join(
        f"<ds><name>{source.name}</name><type>{source.type}</type>"
        f"<minimal_heartbeat>{heartbeat}</minimal_heartbeat><min>0.0</min>"
        f"<max>{release.number(float(source.maximum))}</max><last_ds>{source.last}</last_ds>"
        f"<value>0.0</value><unknown_sec>0</unknown_sec></ds>"
        for source in rrd.sources
    )
    updated = release.last_update(rrd.updated + clock)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<rrd><version>0003</version><step>5</step>'
        f"<lastupdate>{updated}</lastupdate>{sources}{_archives(len(rrd.sources))}</rrd>"
    )


@lru_cache(maxsize=32)
def _archives(sources: int) -> str:
    """Return the archives, which nobody reads: some hundred kilobytes of NaN."""
    row = f"<row>{'<v>NaN</v>' * sources}</row>"
    prepared = (
        "<ds><primary_value>0.0</primary_value><secondary_value>0.0</secondary_value>"
        "<value>0.0</value><unknown_datapoints>0</unknown_datapoints></ds>"
    ) * sources
    return "".join(
        f"<rra><cf>AVERAGE</cf><pdp_per_row>{step // 5}</pdp_per_row>"
        f"<params><xff>0.5</xff></params><cdp_prep>{prepared}</cdp_prep>"
        f"<database>{row * rows}</database></rra>"
        for step, rows in ARCHIVES
    )


def _rrd_json(rrd: Rrd, release: Release, clock: int) -> str:
    sources = []
    for source in rrd.sources:
        told = {
            "name": source.name,
            "type": source.type,
            "minimal_heartbeat": release.number(300),
            "min": "0.0",
            "max": release.number(float(source.maximum)),
            "last_ds": source.last,
            "value": "0.0",
            "unknown_sec": "0.0",
        }
        if release >= (24, 40, 0):
            told["last_updated"] = release.number(source.updated + clock)
        sources.append(told)
    document = {
        "version": "0003",
        "step": "5",
        "lastupdate": release.number(rrd.updated + clock),
        "ds": sources,
        "rra": [],
    }
    return json.dumps(document, separators=(",", ":"))
