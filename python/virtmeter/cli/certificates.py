"""Certificates of whoever is reached by HTTPS, as they are shown, and the options of their URIs."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
from datetime import datetime, timezone
from urllib.parse import unquote, urlsplit

HTTPS = 443
VALIDITY = re.compile(
    rb"\x30[\x1e\x20\x22](?:\x17\x0d\d{12}Z|\x18\x0f\d{14}Z)(?:\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z)"
)
"""From when until when, in a certificate."""


def options(uri: str) -> dict[str, str]:
    """Return the options of a URI that an inspector has taken."""
    given = (option.partition("=") for option in urlsplit(uri).query.split("&"))
    return {name: unquote(value) for name, _, value in given}  # where + is +, unlike in forms


def is_set(uri: str, name: str) -> bool:
    """Return whether it has an option."""
    return name in options(uri)


def certificate_shown(uri: str, timeout: float) -> bytes | None:
    """Return the certificate that is shown now, which nobody has verified."""
    parts = urlsplit(uri)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        address = (parts.hostname or "", parts.port or HTTPS)
        with socket.create_connection(address, timeout) as plain, context.wrap_socket(plain) as tls:
            return tls.getpeercert(binary_form=True)
    except (OSError, ValueError):
        return None


def fingerprint(shown: bytes) -> str:
    """Return the SHA-256 of a certificate."""
    digits = hashlib.sha256(shown).hexdigest().upper()
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


def expiry(shown: bytes) -> datetime | None:
    """Return until when a certificate is good, if that can be made out."""
    found = VALIDITY.search(shown)
    if not found:
        return None
    short, full = ((part or b"").decode() for part in found.groups())
    # Of two digits, 50 is 1950 (RFC 5280).
    text = full or ("19" if short >= "50" else "20") + short
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def matters(uri: str) -> bool:
    """Return whether a certificate that expires is refused: one that is pinned is not."""
    return not is_set(uri, "sha256") and not is_set(uri, "insecure")


def expires(uri: str, timeout: float) -> float | None:
    """Return until when the certificate is good that is shown now, in seconds since the epoch.

    None where that does not matter, or cannot be made out.
    """
    shown = certificate_shown(uri, timeout) if matters(uri) else None
    end = expiry(shown) if shown else None
    return end.timestamp() if end else None
