"""The users of a file as ``htpasswd -B`` writes it."""

from __future__ import annotations

import base64
import binascii
import codecs
import hmac
import re
import secrets
from typing import TYPE_CHECKING, NamedTuple

import bcrypt

from virtmeter.cli import files

if TYPE_CHECKING:
    from pathlib import Path

HASH = re.compile(rb"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
LONGEST = 72
"""bcrypt reads no more of a password than that, and htpasswd cuts it off."""
CHEAPEST, DEAREST = 4, 17
"""The costs that htpasswd allows. At 17, to check a password takes some 10 s."""

NEVER = bytes(32)
"""In the place of what was right once."""
NOBODYS = bytes(60)
"""In the place of a hash."""


class Login(NamedTuple):
    """What a client says of itself."""

    name: bytes
    password: bytes


def login(header: str) -> Login | None:
    """Return the name and the password in a header ``Authorization``, if it has them."""
    scheme, _, encoded = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return Login(name, password[:LONGEST]) if colon else None


class Seals:
    """Remembers which passwords were right, without having them."""

    def __init__(self) -> None:
        """Begin with none."""
        self._key = secrets.token_bytes()
        self._seals: dict[bytes, bytes] = {}

    def add(self, login: Login, hashed: bytes) -> None:
        """Remember that this password has fitted this hash."""
        self._seals[login.name] = self._seal(login, hashed)

    def has(self, login: Login, hashed: bytes) -> bool:
        """Return whether it has."""
        return hmac.compare_digest(self._seals.get(login.name, NEVER), self._seal(login, hashed))

    def _seal(self, login: Login, hashed: bytes) -> bytes:
        return hmac.digest(self._key, hashed + login.password, "sha256")


class Users:
    """Users and the hashes of their passwords."""

    def __init__(self, path: Path, seals: Seals) -> None:
        """Read the file.

        :param seals: what is remembered for longer than this file is as it is.
        :raises ValueError: it cannot be read, has no user, or a line that is none.
        """
        self._hashes = read(path)
        self._nobodys = {
            cost: bcrypt.hashpw(secrets.token_hex().encode(), bcrypt.gensalt(cost))
            for cost in set(map(_cost, self._hashes.values()))
        }
        self._seals = seals

    def know(self, login: Login) -> bool:
        """Return whether this was found right before, which takes no time."""
        own = self._hashes.get(login.name)
        return self._seals.has(login, own or NOBODYS) and own is not None

    def check(self, login: Login) -> bool:
        """Return whether there is such a user with this password, which takes its time.

        The same time whether there is one or not, and whatever his own hash costs: one hash of each
        cost that the file has is checked, the user's own in the place of nobody's.
        """
        own = self._hashes.get(login.name)
        hashes = dict(self._nobodys)
        if own:
            hashes[_cost(own)] = own
        fitting = [hashed for hashed in hashes.values() if _fits(login.password, hashed)]
        if own is None or own not in fitting:
            return False
        self._seals.add(login, own)
        return True


def read(path: Path) -> dict[bytes, bytes]:
    """Return the hashes of a file by the names of their users.

    :raises ValueError: it cannot be read, has no user, or a line that is none.
    """
    hashes: dict[bytes, bytes] = {}
    if path.exists() and not path.is_file():  # a pipe may never come to its end
        raise ValueError(f"{path} is not a regular file")
    try:
        content = files.content(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    lines = content.removeprefix(codecs.BOM_UTF8).splitlines()  # as editors of Windows begin a file
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(b"#"):
            continue
        name, _, hashed = line.strip().partition(b":")
        where = f"{path}, line {number}"
        if not _is_hash(hashed):
            raise ValueError(f"{where}: not a bcrypt hash; 'htpasswd -B' writes them")
        if _cost(hashed) > DEAREST:
            raise ValueError(
                f"{where}: a bcrypt hash whose cost is over {DEAREST} takes too long to check; "
                "'htpasswd -B -C 10' writes a cheaper one"
            )
        if not name:
            raise ValueError(f"{where}: no name before the hash")
        if name in hashes:
            which = name.decode(errors="backslashreplace")
            raise ValueError(f"{where}: '{which}' occurs twice; remove one of the lines")
        hashes[name] = hashed
    if not hashes:
        raise ValueError(f"{path} has no users; 'htpasswd -B -c {path} NAME' adds one")
    return hashes


def _is_hash(hashed: bytes) -> bool:
    # Old versions of bcrypt panic of what only looks like one. And a try takes no long time.
    return bool(HASH.fullmatch(hashed)) and _cost(hashed) >= CHEAPEST and _is_salt(hashed)


def _is_salt(hashed: bytes) -> bool:
    try:
        bcrypt.checkpw(b"", hashed.replace(b"$%02d$" % _cost(hashed), b"$%02d$" % CHEAPEST, 1))
    except ValueError:
        return False
    return True


def _fits(password: bytes, hashed: bytes) -> bool:
    try:
        return bcrypt.checkpw(password, hashed)
    except ValueError:  # of a zero byte, for old versions
        return False


def _cost(hashed: bytes) -> int:
    """Return it: $2y$COST$..."""
    return int(hashed.split(b"$")[2])
