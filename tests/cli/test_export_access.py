"""``virtmeter export``: where it listens, and whom it lets in."""

from __future__ import annotations

import base64
import errno
import os
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue
from shutil import which
from typing import TYPE_CHECKING, cast

import bcrypt
import pytest

from tests.cli.exporter import Exporter, Samples, everything, run
from virtmeter.cli.export import server
from virtmeter.cli.export.access import Access, tls_context
from virtmeter.cli.export.reload import Reload

if TYPE_CHECKING:
    from collections.abc import Callable

TEST = "test:///default"


def new_certificate(path: Path, name: str = "virtmeter") -> None:
    """Write a certificate for 127.0.0.1 and its key into one file; it is its own authority."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", path, "-out", path),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    # -keyout and -out write one after the other, so that the second wins.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    new_certificate(path)
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


def test_those_who_try_passwords_keep_nobody_out_who_is_known(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_bytes(b"prometheus:" + bcrypt.hashpw(b"sesame", bcrypt.gensalt(12)))
    options = ("--auth-file", str(users), "--workers", "1")
    with Exporter(TEST, *options, descriptors=150) as exporter, ExitStack() as stack:
        right = basic("prometheus", "sesame")
        exporter.get(headers=right).close()
        wrong = basic("prometheus", "wrong")["Authorization"]
        for _ in range(18):
            request = f"GET / HTTP/1.0\r\nAuthorization: {wrong}\r\n\r\n"
            stack.enter_context(exporter.connect(request))
        with exporter.get(headers=right) as answer:
            assert answer.status == 200


def test_sighup_reads_certificate_authority_and_users_anew(
    certificate: Path, tmp_path: Path
) -> None:
    server, client, users = tmp_path / "server.pem", tmp_path / "client.pem", tmp_path / "users"
    new_certificate(server)
    new_certificate(client)
    users.write_bytes(b"old:" + bcrypt.hashpw(b"1", bcrypt.gensalt(4)))
    options = ("--tls-cert", str(server), "--tls-client-ca", str(client), "--auth-file", str(users))

    def knows(trusted: Path, own: Path) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(trusted))
        context.load_cert_chain(own)
        return context

    with Exporter(TEST, *options) as exporter:
        before = knows(server, client)
        exporter.get("/", headers=basic("old", "1"), tls=before).close()
        with (
            exporter.connect() as begun,
            before.wrap_socket(begun, server_hostname="127.0.0.1") as begun_in_tls,
        ):
            begun_in_tls.sendall(b"GET / HTTP/1.1\r\n")
            server.write_bytes(certificate.read_bytes())
            new_certificate(client)
            users.write_bytes(b"new:" + bcrypt.hashpw(b"2", bcrypt.gensalt(4)))
            assert exporter.hang_up() == (f"virtmeter: reloaded {server}, {client}, {users}\n")
            authorization = basic("new", "2")["Authorization"]
            begun_in_tls.sendall(f"Authorization: {authorization}\r\n\r\n".encode())
            assert begun_in_tls.recv(15) == b"HTTP/1.1 200 OK"
        for context in (before, knows(server, certificate)):
            with pytest.raises((urllib.error.URLError, OSError)):
                exporter.get("/", headers=basic("new", "2"), tls=context)
        after = knows(server, client)
        exporter.get("/", headers=basic("new", "2"), tls=after).close()
        with pytest.raises(urllib.error.HTTPError) as caught:
            exporter.get("/", headers=basic("old", "1"), tls=after)
        assert caught.value.code == 401
        caught.value.close()


def test_sighup_with_a_mistake_in_a_file_changes_nothing(certificate: Path, tmp_path: Path) -> None:
    server, users = tmp_path / "server.pem", tmp_path / "users"
    server.write_bytes(certificate.read_bytes())
    users.write_bytes(b"user:" + bcrypt.hashpw(b"1", bcrypt.gensalt(4)))
    right, trusting = basic("user", "1"), ssl.create_default_context(cafile=str(certificate))
    with Exporter(TEST, "--tls-cert", str(server), "--auth-file", str(users)) as exporter:
        users.write_bytes(b"other:" + bcrypt.hashpw(b"1", bcrypt.gensalt(4)))
        server.write_text("no certificate")
        for _ in range(2):  # it is said as often as somebody asks for it
            assert exporter.hang_up().startswith(
                f"virtmeter: reload failed, nothing changed: the certificate {server} or its key "
            )
        new_certificate(server)
        users.write_bytes(b"user:1")
        assert exporter.hang_up() == (
            f"virtmeter: reload failed, nothing changed: {users}, line 1: not a bcrypt hash; "
            "'htpasswd -B' writes them\n"
        )
        users.unlink()
        assert exporter.hang_up().endswith(f"no such file: {users}\n")
        os.mkfifo(users)
        assert exporter.hang_up().endswith(f"{users} is not a regular file\n")
        exporter.get("/", headers=right, tls=trusting).close()


def test_a_file_for_the_keys_of_sessions_that_cannot_be_written_is_named(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "none" / "keys"))
    with pytest.raises(ValueError, match=r"SSLKEYLOGFILE cannot be written: .* '.*/none/keys'"):
        tls_context(certificate, None, None)


def test_a_key_with_a_passphrase_is_said_to_be_one(certificate: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    how = ("openssl", "pkey", "-aes128", "-passout", "pass:1", "-in", certificate, "-out", key)
    subprocess.run(how, check=True, capture_output=True)
    with pytest.raises(ValueError, match=f"the key in {key} is encrypted: remove its passphrase"):
        tls_context(certificate, key, None)


class Sighups(SimpleQueue[None]):
    """A queue where nobody waits for more than so many, which come one after the other."""

    def __init__(self, count: int, *, at_once: bool = False) -> None:
        self._at_once = at_once
        for _ in range(count):
            self.put(None)

    def empty(self) -> bool:
        return super().empty() or not self._at_once

    def get(self, block: bool = False, timeout: float | None = None) -> None:  # noqa: ARG002
        return super().get(block=False)


def test_sighup_is_heard_again_whatever_failed(
    passwords: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(error: Exception) -> Callable[[Path], bool]:
        def is_file(_: Path) -> bool:
            raise error

        return is_file

    access = Access(None, None, None, passwords)
    for error in (PermissionError(errno.EACCES, "Permission denied"), RuntimeError("odd")):
        monkeypatch.setattr(Path, "is_file", fails(error))
        with pytest.raises(Empty):
            Reload(access).when_asked(Sighups(2))
    denied = f"reload failed, nothing changed: {passwords} cannot be read: Permission denied"
    odd = "reload failed, nothing changed: odd"
    assert caplog.messages == [denied, denied, odd, odd]


def test_sighups_that_come_at_once_are_one(
    passwords: Path, caplog: pytest.LogCaptureFixture
) -> None:
    access = Access(None, None, None, passwords)
    with pytest.raises(Empty):
        Reload(access).when_asked(Sighups(1000, at_once=True))
    assert caplog.messages == [f"reloaded {passwords}"]


def test_who_asks_again_and_again_keeps_nobody_else_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("virtmeter.cli.export.reload.PAUSE", 0.0)
    begun, go_on, enough = threading.Semaphore(0), threading.Semaphore(0), threading.Event()

    class Files:
        files = ()

        def read(self) -> None:
            begun.release()
            assert go_on.acquire(timeout=30)

    reload = Reload(cast("Access", Files()))

    asking = threading.Semaphore(0)

    def again_and_again() -> None:
        while not enough.is_set():
            reload.now()

    def once() -> None:
        asking.release()
        reload.now()

    with ThreadPoolExecutor(130) as clients:
        for _ in range(30):
            clients.submit(again_and_again)
        try:
            assert begun.acquire(timeout=30)
            asked = [clients.submit(once) for _ in range(100)]
            for _ in asked:
                assert asking.acquire(timeout=30)
            wait(asked, 0.2)  # from there to the question, it is a moment
            # Four, as one of them may miss the first; the old way, most would wait for their turn.
            for _ in range(4):
                go_on.release()
                assert begun.acquire(timeout=30)
            # One that was begun after they had asked has ended; the next is under way.
            assert not wait(asked, 10).not_done
        finally:
            enough.set()
            go_on.release(1000)


def test_sighup_with_nothing_to_read() -> None:
    with Exporter(TEST) as exporter:
        assert exporter.hang_up() == (
            "virtmeter: nothing to reload: there is no certificate and no file of users\n"
        )
        assert exporter.get("/-/healthy").status == 200


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


BOTH = """
import socket, sys
from tests.cli.exporter import Exporter, everything

for listen, address, answers in (
    ("[::]:0", "127.0.0.1", True),
    ("[::]:0", "::1", True),
    (":0", "127.0.0.1", True),
    (":0", "::1", True),
    ("0", "127.0.0.1", True),
    ("0", "::1", True),
    ("*:0", "127.0.0.1", True),
    ("*:0", "::1", True),
    ("[::1]:0", "::1", True),
    ("[::1]:0", "127.0.0.1", False),
    ("0.0.0.0:0", "::1", False),
):
    with Exporter("test:///default", listen=listen) as exporter:
        port = int(exporter.url.rpartition(":")[2].split("/")[0])
        try:
            with socket.create_connection((address, port), 30) as client:
                client.sendall(b"GET /-/healthy HTTP/1.1\\r\\n\\r\\n")
                assert everything(client).startswith(b"HTTP/1.1 200 "), (listen, address)
                assert answers, (listen, address)
        except ConnectionRefusedError:
            assert not answers, (listen, address)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have a network of its own")
@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="there is no IPv6")
@pytest.mark.parametrize("bindv6only", [0, 1])
def test_all_addresses_are_those_of_ipv4_too_whatever_the_system_prefers(bindv6only: int) -> None:
    script = f'ip link set lo up && echo {bindv6only} >/proc/sys/net/ipv6/bindv6only && exec "$@"'
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script, "sh", sys.executable, "-c", BOTH],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stderr) == (0, "")


WITHOUT_IPV6 = {
    "socket": errno.EAFNOSUPPORT,  # a kernel that was started with ipv6.disable=1
    "bind": errno.EADDRNOTAVAIL,  # net.ipv6.conf.lo.disable_ipv6=1, and an address of the host
}


@pytest.mark.parametrize("fails", WITHOUT_IPV6)
@pytest.mark.parametrize(
    ("host", "address"), [("::", "0.0.0.0"), ("both", "127.0.0.1")], ids=["all", "a name of both"]
)
def test_a_host_without_ipv6(
    monkeypatch: pytest.MonkeyPatch, fails: str, host: str, address: str
) -> None:
    class Socket(socket.socket):
        def __init__(self, family: int = -1, *more: int) -> None:
            if fails == "socket" and family == socket.AF_INET6:
                raise OSError(WITHOUT_IPV6[fails], "no IPv6")
            super().__init__(socket.AF_INET, *more)
            self.is_ipv6 = family == socket.AF_INET6

        def setsockopt(self, level: int, *more: int) -> None:  # type: ignore[override]
            if level != socket.IPPROTO_IPV6:
                super().setsockopt(level, *more)

        def bind(self, address: tuple[str, int]) -> None:  # type: ignore[override]
            if self.is_ipv6:
                raise OSError(WITHOUT_IPV6[fails], "no IPv6")
            super().bind(address)

    resolve = socket.getaddrinfo

    def of_name(name: str, port: int, **more: int) -> list[object]:
        names = ("::1", "127.0.0.1") if name == "both" else (name,)
        return [found for each in names for found in resolve(each, port, **more)]

    monkeypatch.setattr(socket, "socket", Socket)
    monkeypatch.setattr(socket, "getaddrinfo", of_name)
    with server.bound_to(host, 0) as listener:
        assert listener.getsockname()[0] == address
        listener.listen()
        with pytest.raises(OSError, match="no IPv6"):
            server.bound_to("::1", 0)
        with pytest.raises(OSError, match="in use"):
            server.bound_to(*listener.getsockname())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--listen", "host"), "'host' is not HOST:PORT"),
        (("--listen", ""), "'' is not HOST:PORT"),
        (("--listen", "*"), "'*' is not HOST:PORT"),
        (("--listen", ":"), "':' is not HOST:PORT"),
        (("--listen", "::9177"), "'::9177' is not HOST:PORT"),
        (("--listen", "65536"), "'65536' is not HOST:PORT"),
        (("--listen", "host:http"), "is not HOST:PORT"),
        (("--listen", "a@b:1"), "is not HOST:PORT"),
        (("--tls-key", __file__), "need --tls-cert"),
        (("--output", "file"), "--output needs --once"),
        (("--once", "--listen", "127.0.0.1:9177"), "--once serves nothing: leave out --listen"),
        (
            ("--tls-cert", __file__, "--auth-file", __file__, "--once"),
            "--once serves nothing: leave out --tls-cert, --auth-file",
        ),
        (
            ("--once", "--tls-key", __file__, "--tls-client-ca", __file__),
            "--once serves nothing: leave out --tls-key, --tls-client-ca",
        ),
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
            (("--auth-file", str(hashed)), "line 1: not a bcrypt hash"),
            (("--auth-file", str(cut)), "line 1: not a bcrypt hash"),
            (("--auth-file", str(empty)), "has no users"),
        ):
            completed = run("--uri", TEST, *arguments)
            assert completed.returncode == 1
            [line] = completed.stderr.splitlines()
            assert words in line


def test_an_answer_arrives_over_tls_although_not_all_was_read_that_was_sent(
    certificate: Path,
) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    with (
        Exporter(TEST, "--tls-cert", str(certificate)) as exporter,
        exporter.connect() as plain,
        trusting.wrap_socket(plain, server_hostname="127.0.0.1") as client,
    ):
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 8000000\r\n\r\n" + 8_000_000 * b"x")
        assert everything(client).endswith(b"Only GET is supported.\n")
