"""``virtmeter export``: whatever is sent to it, it answers or hangs up, and says nothing of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import urllib.request
from contextlib import suppress
from email.message import Message
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.cli.exporter import COMMAND, Exporter, Samples, everything
from tests.support.qemu import wait_for
from virtmeter.cli.export import formats
from virtmeter.cli.export.messages import (
    LONGEST,
    MOST_ESCAPED,
    MOST_FIELDS,
    RefusalError,
    parse,
    receive,
)

if TYPE_CHECKING:
    from tests.support.libvirtd import Daemon

TEST = "test:///default"

WORDS = [
    *("GET", "POST", "HEAD", "OPTIONS", "PRI", "/metrics", "/", "%6detrics", "%zz", "//[", "*"),
    *("http://[::1/", "http://host/metrics", "?name[]=virtmeter_up", "?name[]=", "?%ff%00=&&;="),
    *(" HTTP/1.1", " HTTP/1.0", " HTTP/9.9", " HTTP/", " HTTP/1." + 30 * "9", "\r\n", "\n", "\r"),
    *("Accept: ", "Accept-Encoding: ", "Authorization: ", "Content-Length: ", "Host: ", "X:"),
    *("X-Prometheus-Scrape-Timeout-Seconds: ", "Expect: 100-continue", "Connection: keep-alive"),
    *("Transfer-Encoding: chunked", "text/plain", "application/openmetrics-text", "gzip", "*/*"),
    *(";version=", ";q=", "1.0.0", "x", "nan", "inf", "-1", "1e308", "0.01", ";", ",", "=", ":"),
    *(" ", "\t", "\0", "é", "\xff\xfe", "Basic ", "Og==", 300 * "A", 5000 * "A"),
    "".join(map(chr, range(256))),
]
REQUEST = st.lists(st.sampled_from(WORDS), max_size=40).map("".join)


def from_chunks(*chunks: bytes) -> bytes:
    left = list(chunks)
    return receive(lambda _: left.pop(0) if left else b"")


def test_a_head_may_come_in_any_pieces() -> None:
    head = b"GET /a%20b?name[]=x&name[]=y HTTP/1.1\r\nAccept: z\r\n\r\n"
    for pieces in ([head], [head[:-1], head[-1:]], [bytes([each]) for each in head]):
        request = parse(from_chunks(*pieces))
        assert request[:3] == ("GET", "/a b", {"name[]": ["x", "y"]})
        assert request.headers["accept"] == "z"
    with pytest.raises(EOFError):
        from_chunks(head[:-1])
    with pytest.raises(RefusalError):
        from_chunks(*[b"x" * 100] * LONGEST)


def test_what_a_head_costs_has_an_end() -> None:
    offer, others = "application/openmetrics-text", "text/html," * formats.MOST
    assert not formats.choose(others + offer, "").openmetrics
    assert formats.choose(f"{offer},{others}", "gzip").openmetrics
    assert formats.choose(f"{offer};version=1.0.0" + ";a=b" * 10_000, "").openmetrics
    fields = "&".join(["name[]=x"] * MOST_FIELDS)
    head = f"GET /?{fields} HTTP/1.1\r\n\r\n"
    assert parse(head.encode()).query == {"name[]": ["x"] * MOST_FIELDS}
    with pytest.raises(RefusalError, match="Malformed"):
        parse(head.replace("?", "?a=b&").encode())
    # A body of parts within parts, to the standard library.
    parts = b"".join(b"Content-Type:multipart/a;boundary=%d\r\r--%d\r" % (n, n) for n in range(300))
    with pytest.raises(RefusalError, match="Malformed"):
        parse(b"GET / HTTP/1.1\r\nA:b\r" + parts + b"\r\n\r\n")
    assert parse(b"GET / HTTP/1.1\r\n\r\na body\r\rof another").path == "/"
    assert parse(b"GET /?a=" + b"%C3%A9" * (MOST_ESCAPED // 2) + b" HTTP/1.1\r\n\r\n").query
    for path in ("é" * MOST_ESCAPED, "%41" * MOST_ESCAPED + "%"):
        with pytest.raises(RefusalError, match="1000 bytes are escaped"):
            parse(f"GET /?a={path} HTTP/1.1\r\n\r\n".encode())


@given(st.one_of(REQUEST.map(lambda text: text.encode("latin-1")), st.binary()))
@example(b"GET /\xb2 HTTP/1.\xb2")
@example(b"GET http://[ HTTP/1.1")
@example(b"GET / HTTP/1.1\r\n" + 200 * b"A: b\r\n")
def test_a_head_is_a_request_or_refused(head: bytes) -> None:
    refused = None
    try:
        request = parse(head + b"\r\n\r\n")
    except RefusalError as error:
        refused = error.answer.status.value
    else:
        assert isinstance(request.headers, Message)
    assert refused in (None, 400, 414, 431, 505)


@pytest.mark.parametrize(
    "header",
    [
        *("Accept: text/plain;version=x", "Accept: application/openmetrics-text;version=x"),
        *("Accept: application/openmetrics-text;version=1.0.0;escaping=dots", "Accept: image/png"),
        *("Accept-Encoding: *", "X-Prometheus-Scrape-Timeout-Seconds: 1e308"),
    ],
)
def test_any_header_gets_what_it_can_be_given(header: str, daemon: Daemon) -> None:
    with Exporter(daemon.uri) as exporter:
        answer = exporter.ask(f"GET /metrics HTTP/1.1\r\n{header}\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == b"200"
        assert Samples(body.decode().replace("# EOF\n", ""))("virtmeter_up") == 1
    assert exporter.said == ""


def test_thousands_of_requests_that_are_none(daemon: Daemon) -> None:
    chance = random.Random(1)
    with Exporter(daemon.uri) as exporter:
        statuses = set()
        for _ in range(3000):
            words = chance.choices(WORDS, k=chance.randrange(30))
            begin = chance.choice(["", "GET /metrics HTTP/1.1\r\nAccept: ", "GET /metrics?name[]="])
            with exporter.connect() as client, suppress(ConnectionError):
                client.sendall((begin + "".join(words) + "\r\n\r\n").encode("latin-1"))
                if chance.random() < 0.9:
                    statuses.add(everything(client).split(b" ")[1])
        assert statuses >= {b"200", b"400"}
        assert statuses <= {b"200", b"400", b"404", b"405", b"414", b"431", b"505"}
        assert exporter.scrape()("virtmeter_up") == 1
    assert exporter.said == ""


def test_a_head_without_an_end_is_refused() -> None:
    with Exporter(TEST) as exporter:
        answer = exporter.ask("GET / HTTP/1.1\r\n" + "Accept: text/plain\r\n" * 10000)
        assert answer.startswith(b"HTTP/1.1 431 ")


def test_other_methods() -> None:
    with Exporter(TEST) as exporter:
        for path, status in (("/metrics", b"200"), ("/none", b"404"), ("/ x", b"400")):
            head = exporter.ask(f"HEAD {path} HTTP/1.1\r\n\r\n")
            assert head.split(b" ")[1] == status
            assert head.endswith(b"\r\n\r\n")
        # The answer arrives although not all was read that was sent.
        body = 1_000_000 * "x"
        posted = exporter.ask(f"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n{body}")
        assert posted.startswith(b"HTTP/1.1 405 ")
        assert b"\r\nAllow: GET, HEAD\r\n" in posted
        assert posted.endswith(b"Only GET is supported.\n")


def test_a_stderr_that_nobody_reads_holds_up_neither_scrapes_nor_the_end() -> None:
    with Exporter(TEST, "--deadline", "20") as exporter:
        pipe = os.open(f"/proc/{exporter.process.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while True:
                os.write(pipe, b"\n")
        os.close(pipe)
        for _ in range(3):  # devices are left out, which is logged
            exporter.process.send_signal(signal.SIGHUP)  # so is this
            assert exporter.scrape()("virtmeter_scrape_complete") == 1
        exporter.process.send_signal(signal.SIGTERM)
        assert exporter.process.wait(timeout=20) == 0


def test_a_stderr_that_is_full_from_the_start_holds_up_neither() -> None:
    pid = os.getpid()
    host = f"127.{1 + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255}"  # nobody else's
    reader, stderr = os.pipe()
    os.set_blocking(stderr, False)
    with suppress(BlockingIOError):
        while True:
            os.write(stderr, b"\n")
    os.set_blocking(stderr, True)
    command = (*COMMAND, "export", "--uri", TEST, "--listen", f"{host}:9177")
    process = subprocess.Popen(command, stderr=stderr)
    try:
        wait_for(lambda: is_served(f"http://{host}:9177/metrics"), "it serves", timeout=30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(stderr)


def is_served(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
        return b"\nvirtmeter_up 1" in answer.read()
    return False


def test_a_stderr_that_is_closed_by_its_reader() -> None:
    with Exporter(TEST) as exporter:
        assert exporter.process.stderr is not None
        exporter.process.stderr.close()
        exporter.process.send_signal(signal.SIGHUP)
        for _ in range(3):
            assert exporter.scrape()("virtmeter_scrape_complete") == 1
        exporter.process.send_signal(signal.SIGTERM)
        assert exporter.process.wait(timeout=20) == 0
