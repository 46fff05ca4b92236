"""``virtmeter export``: where it listens, and whom it lets in."""

from __future__ import annotations

import base64
import socket
import ssl
import subprocess
import time
import urllib.error
from contextlib import ExitStack
from pathlib import Path
from shutil import which

import bcrypt
import pytest

from tests.cli.exporter import Exporter, Samples, run
from virtmeter.cli.exporter.server import MOST

TEST = "test:///default"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and its key, in one file; it is its own authority."""
    if which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=virtmeter", "-keyout", path, "-out", path),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    # -keyout and -out write one after the other, so that the second wins.
    return path


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    hashes = {
        name: bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).replace(b"$2b$", b"$2y$")
        for name, password in (("prometheus", "sésame"), ("other", "x" * 72))
    }
    lines = [b"# users", *(name.encode() + b":" + each for name, each in hashes.items()), b""]
    path.write_bytes(b"\n".join(lines))
    return path


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def test_tls_and_passwords(certificate: Path, passwords: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    options = ("--tls-cert", str(certificate), "--auth-file", str(passwords))
    with Exporter(TEST, *options) as exporter:
        assert exporter.url.startswith("https://127.0.0.1:")
        for right in (basic("prometheus", "sésame"), basic("other", "x" * 80)):
            with exporter.get(headers=right, tls=trusting) as answer:
                assert Samples(answer.read().decode())("virtmeter_up") == 1
        for wrong in (
            {},
            basic("prometheus", "sesame"),
            basic("nobody", ""),
            {"Authorization": "Basic !"},
            {"Authorization": "Bearer x"},
        ):
            with pytest.raises(urllib.error.HTTPError) as caught:
                exporter.get(headers=wrong, tls=trusting)
            assert caught.value.code == 401
            assert caught.value.headers["WWW-Authenticate"].startswith("Basic ")
            caught.value.close()
        with pytest.raises(urllib.error.URLError):
            exporter.get(tls=ssl.create_default_context())


def test_a_client_without_a_certificate_stays_out_and_one_that_stalls_holds_up_nobody(
    certificate: Path,
) -> None:
    ours = str(certificate)
    knows_itself = ssl.create_default_context(cafile=ours)
    knows_itself.load_cert_chain(ours)
    with Exporter(TEST, "--tls-cert", ours, "--tls-client-ca", ours) as exporter:
        port = int(exporter.url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as stalling:
            with exporter.get("/-/healthy", tls=knows_itself) as answer:
                assert answer.status == 200
            with pytest.raises((urllib.error.URLError, OSError)):
                exporter.get("/-/healthy", tls=ssl.create_default_context(cafile=ours))
            assert stalling.fileno() > 0


def test_whoever_is_known_does_not_wait_for_those_who_try_passwords(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_bytes(b"prometheus:" + bcrypt.hashpw(b"sesame", bcrypt.gensalt(10)))
    with Exporter(TEST, "--auth-file", str(users)) as exporter:
        right = basic("prometheus", "sesame")
        exporter.get(headers=right).close()
        host, port = exporter.url.split("/")[2].split(":")
        wrong = basic("prometheus", "wrong")["Authorization"]
        with ExitStack() as stack:
            for _ in range(80):
                client = stack.enter_context(socket.create_connection((host, int(port))))
                client.sendall(f"GET / HTTP/1.0\r\nAuthorization: {wrong}\r\n\r\n".encode())
            began = time.monotonic()
            exporter.get(headers=right).close()
            assert time.monotonic() - began < 2, "each password takes 50 ms and more"


def test_those_who_send_slowly_are_hung_up_on_when_there_are_many() -> None:
    with Exporter(TEST) as exporter, ExitStack() as stack:
        host, port = exporter.url.split("/")[2].split(":")
        clients = []
        for _ in range(MOST + 10):
            clients.append(stack.enter_context(socket.create_connection((host, int(port)))))
            clients[-1].sendall(b"GET / HTTP/1.0\r\n")
        clients[0].settimeout(5)
        assert clients[0].recv(1) == b""
        assert exporter.get("/-/healthy").status == 200
        clients[-1].sendall(b"\r\n")
        clients[-1].settimeout(5)
        assert clients[-1].recv(4) == b"HTTP"


def test_passwords_without_tls_are_warned_of_only_where_others_can_listen(passwords: Path) -> None:
    with Exporter(TEST, "--auth-file", str(passwords)) as exporter:
        assert not any("TLS" in line for line in exporter.started)
    with Exporter(TEST, "--auth-file", str(passwords), listen="0.0.0.0:0") as exporter:
        assert sum("without TLS" in line for line in exporter.started) == 1


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="there is no IPv6")
def test_an_ipv6_address_in_brackets() -> None:
    with Exporter(TEST, listen="[::1]:0") as exporter:
        assert exporter.url.startswith("http://[::1]:")
        assert exporter.scrape()("virtmeter_up") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--listen", "9177"), "'9177' is not HOST:PORT"),
        (("--listen", "host:http"), "is not HOST:PORT"),
        (("--listen", "a@b:1"), "is not HOST:PORT"),
        (("--tls-key", __file__), "need --tls-cert"),
        (("--output", "file"), "--output needs --once"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], words: str) -> None:
    completed = run("--uri", TEST, *arguments)
    assert completed.returncode == 2
    assert words in completed.stderr


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    hashed = tmp_path / "md5"
    hashed.write_text("user:$apr1$abc$def\n")
    cut = tmp_path / "cut"
    cut.write_bytes(b"user:" + bcrypt.hashpw(b"", bcrypt.gensalt(4))[:-1])
    empty = tmp_path / "empty"
    empty.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, words in (
            (("--listen", f"127.0.0.1:{port}"), "Address already in use"),
            (("--listen", "..:9177"), "cannot listen on .., port 9177"),
            (("--tls-cert", str(hashed)), "certificate"),
            (("--auth-file", str(hashed)), "line 1: no bcrypt hash"),
            (("--auth-file", str(cut)), "line 1: no bcrypt hash"),
            (("--auth-file", str(empty)), "has no users"),
        ):
            completed = run("--uri", TEST, *arguments)
            assert completed.returncode == 1
            [line] = completed.stderr.splitlines()
            assert words in line
