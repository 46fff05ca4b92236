"""The file of users that ``virtmeter export`` lets in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import bcrypt
import pytest

from tests.cli.exporter import Exporter, run
from tests.cli.test_export_access import basic
from virtmeter.cli.export.users import read

if TYPE_CHECKING:
    from pathlib import Path

TEST = "test:///default"
HASH = bcrypt.hashpw(b"sesame", bcrypt.gensalt(4))


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbfjoe:%s\n", b"# users\r\n\r\njoe:%s\r\n", b"jo\xe9:%s\njoe:%s"],
    ids=["BOM", "CRLF", "another's name is not UTF-8"],
)
def test_a_file_of_any_editor_lets_its_users_in(tmp_path: Path, content: bytes) -> None:
    users = tmp_path / "users"
    users.write_bytes(content.replace(b"%s", HASH))
    with Exporter(TEST, "--auth-file", str(users)) as exporter:
        assert exporter.get(headers=basic("joe", "sesame")).status == 200


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"joe:%s\n:%s\n", "line 2: no name before the hash"),
        (b"joe:%s\nx\xe9\x1b:%s\nx\xe9\x1b:%s", r"line 3: 'x\xe9\x1b' occurs twice"),
        ("joe:%s".encode("utf-16"), "line 1: not a bcrypt hash"),
    ],
    ids=["no name", "twice", "UTF-16"],
)
def test_a_line_that_would_let_in_nobody_or_anybody_is_told(
    tmp_path: Path, content: bytes, words: str
) -> None:
    users = tmp_path / "users"
    users.write_bytes(content.replace(b"%s", HASH))
    completed = run("--uri", TEST, "--auth-file", str(users))
    assert completed.returncode == 1
    [line] = completed.stderr.splitlines()
    assert line.startswith(f"virtmeter: {users}, {words}")


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.touch()
    os.truncate(users, 1 << 42)
    for option in ("--auth-file", "--tls-cert"):
        completed = run("--uri", TEST, option, str(users))
        [line] = completed.stderr.splitlines()
        assert (completed.returncode, line) == (1, f"virtmeter: {users} is longer than 16 MiB")
    with pytest.raises(ValueError, match="is longer than 16 MiB"):
        read(users)


def test_a_pipe_in_its_place_is_told_and_not_waited_for(tmp_path: Path) -> None:
    """At the start the option says so; this is for a file that is read anew."""
    pipe = tmp_path / "users"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="is not a regular file"):
        read(pipe)
