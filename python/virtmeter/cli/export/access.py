"""Who gets in: what the files of certificate, key, authority and users say, and say anew."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NoReturn

from virtmeter.cli.export.users import Seals, Users
from virtmeter.cli.files import LONGEST

if TYPE_CHECKING:
    from pathlib import Path


class Access:
    """The files, and what they said when they were last read without finding a mistake."""

    def __init__(
        self, cert: Path | None, key: Path | None, client_ca: Path | None, auth_file: Path | None
    ) -> None:
        """Read them.

        :raises ValueError: one cannot be used.
        """
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._auth_file = auth_file
        self.files = [each for each in (cert, key, client_ca, auth_file) if each]
        self.tls: ssl.SSLContext | None = None
        self.users: Users | None = None
        self._seals = Seals()
        self.read()

    def read(self) -> None:
        """Take what they say for those who connect from now on.

        :raises ValueError: one cannot be used; nothing has changed.
        """
        for file in self.files:
            try:
                there = file.is_file()  # a pipe may have taken its place, and never come to its end
                too_long = there and file.stat().st_size > LONGEST
            except OSError as error:  # as of a directory that may not be entered
                raise ValueError(f"{file} cannot be read: {error.strerror}") from None
            if not there:
                raise ValueError(
                    f"{file} is not a regular file" if file.exists() else f"no such file: {file}"
                )
            if too_long:
                raise ValueError(f"{file} is longer than {LONGEST >> 20} MiB")
        tls = tls_context(self._cert, self._key, self._client_ca) if self._cert else None
        users = Users(self._auth_file, self._seals) if self._auth_file else None
        self.tls, self.users = tls, users


def tls_context(cert: Path, key: Path | None, client_ca: Path | None) -> ssl.SSLContext:
    """Return what these files say.

    :raises ValueError: they cannot be used.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    except OSError as error:  # it opens the file that is to have the keys of all sessions
        raise ValueError(f"SSLKEYLOGFILE cannot be written: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION

    def refuse() -> NoReturn:  # in place of the terminal
        raise ValueError(f"the key in {key or cert} is encrypted: remove its passphrase")

    try:
        context.load_cert_chain(cert, key, refuse)
    except (ssl.SSLError, OSError) as error:
        raise ValueError(f"the certificate {cert} or its key cannot be used: {error}") from None
    if client_ca:
        try:
            context.load_verify_locations(client_ca)
        except (ssl.SSLError, OSError) as error:
            raise ValueError(f"{client_ca} has no CA certificate: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context
