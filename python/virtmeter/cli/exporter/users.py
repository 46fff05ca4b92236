"""Who may read the metrics: the users of a file as ``htpasswd -B`` writes it."""

from __future__ import annotations

import base64
import binascii
import codecs
import hmac
import re
import secrets
import threading
from typing import TYPE_CHECKING

import bcrypt

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HASH = re.compile(rb"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
LONGEST = 72
"""bcrypt reads no more of a password than that, and htpasswd cuts it off."""


class Users:
    """Users and the hashes of their passwords."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        :raises OSError: that cannot be.
        :raises ValueError: it has no user, or a line that is none.
        """
        self._hashes = read(path)
        self._nobody = bcrypt.hashpw(b"", bcrypt.gensalt(rounds=_rounds(self._hashes.values())))
        # One at a time: who tries passwords occupies one processor at the most.
        self._checking = threading.Lock()
        self._key = secrets.token_bytes()
        # What was right once is known at once, however many try passwords meanwhile.
        self._right: set[bytes] = set()

    def knows(self, header: str) -> bool:
        """Return whether an Authorization header has a user's name and password."""
        scheme, _, encoded = header.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            name, _, password = base64.b64decode(encoded, validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return False
        password = password[:LONGEST]
        seal = hmac.digest(self._key, name + b":" + password, "sha256")
        if seal in self._right:
            return True
        # A name that does not exist takes as long as a wrong password.
        hashed = self._hashes.get(name, self._nobody)
        with self._checking:
            right = bcrypt.checkpw(password, hashed) and name in self._hashes
        if right:
            self._right.add(seal)
        return right

    def guard(self, app: WSGIApplication) -> WSGIApplication:
        """Let only users in."""

        def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            if self.knows(environ.get("HTTP_AUTHORIZATION", "")):
                return app(environ, start_response)
            headers = [
                ("Content-Type", "text/plain; charset=utf-8"),
                ("WWW-Authenticate", 'Basic realm="virtmeter", charset="UTF-8"'),
            ]
            start_response("401 Unauthorized", headers)
            return [b"virtmeter needs a user and a password.\n"]

        return guarded


def read(path: Path) -> dict[bytes, bytes]:
    """Return the hashes of a file by the names of their users.

    :raises OSError: it cannot be read.
    :raises ValueError: it has no user, or a line that is none.
    """
    hashes: dict[bytes, bytes] = {}
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)  # as editors of Windows begin a file
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip() or line.startswith(b"#"):
            continue
        name, _, hashed = line.strip().partition(b":")
        where = f"{path}, line {number}"
        if not _is_hash(hashed):
            raise ValueError(f"{where}: no bcrypt hash; 'htpasswd -B' writes them")
        if not name:
            raise ValueError(f"{where}: there is no name before the hash")
        if name in hashes:
            which = name.decode(errors="backslashreplace")
            raise ValueError(f"{where}: '{which}' is there already; leave one of the lines")
        hashes[name] = hashed
    if not hashes:
        raise ValueError(f"{path} has no users; 'htpasswd -B -c {path} NAME' adds one")
    return hashes


def _is_hash(hashed: bytes) -> bool:
    if not HASH.fullmatch(hashed):  # old versions of bcrypt panic of some
        return False
    try:
        bcrypt.checkpw(b"", hashed)
    except ValueError:
        return False
    return True


def _rounds(hashes: Iterable[bytes]) -> int:
    """Return the cost of the dearest hash: $2y$COST$..."""
    return max(int(hashed.split(b"$")[2]) for hashed in hashes)
