"""Certificates as XenServer makes them: signed by themselves, with an RSA key."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def openssl(*arguments: str | Path) -> str:
    """Return what a command of openssl prints."""
    return subprocess.run(
        ["openssl", *arguments], check=True, capture_output=True, text=True
    ).stdout


@cache
def key() -> str:
    """Return the key of all hosts: to make one takes long."""
    return openssl("genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")


class Certificate:
    """A certificate for an address and a name, in one file with its key."""

    def __init__(self, path: Path, address: str, name: str) -> None:
        path.write_text(key())
        self.pem = openssl(
            *("req", "-x509", "-days", "2", "-key", path, "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName=IP:{address},DNS:{name}"),
        )
        path.write_text(key() + self.pem)
        self.path = path

    @property
    def sha256(self) -> str:
        """Return what one pins, as pairs of hex digits with colons."""
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.pem)).hexdigest().upper()
        return ":".join(digest[n : n + 2] for n in range(0, 64, 2))

    def context(self) -> ssl.SSLContext:
        """Return what a server of XenServer's policy is made with: TLS 1.2, secp384r1."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256")
        context.set_ecdh_curve("secp384r1")
        context.load_cert_chain(self.path)
        return context
