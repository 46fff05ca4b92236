"""The part of XDR that libvirt's RPC messages are made of, both ways.

XDR (https://www.rfc-editor.org/rfc/rfc4506) is big-endian and padded to four bytes.  ``string``,
``optional``, ``array`` and ``pack`` build bytes (and so the payload of a ``libvirtd.Reply``);
``Reader`` takes them apart.  ``Int``, ``UInt``, ``LLong``, ``ULLong``, ``Double``, ``Boolean`` and
``String`` are the values that a libvirt typed parameter can hold.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def pack(layout: str, *values: float) -> bytes:
    """Packs numbers; ``layout`` is in the letters of the ``struct`` module (i, I, q, Q, d)."""
    return struct.pack(">" + layout, *values)


def string(text: str) -> bytes:
    """A string: its length, its bytes, padding.  Lone surrogates go out as the raw bytes."""
    data = text.encode("utf-8", "surrogateescape")
    return pack("I", len(data)) + data + bytes(-len(data) % 4)


def optional(text: str | None) -> bytes:
    """A string that may be absent."""
    return pack("I", 0) if text is None else pack("I", 1) + string(text)


def array(items: Iterable[bytes]) -> bytes:
    """A counted list of things that are already encoded."""
    encoded = list(items)
    return pack("I", len(encoded)) + b"".join(encoded)


class Reader:
    """Reads a message from its start; ``ValueError`` when the message ends too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def opaque(self, length: int) -> bytes:
        """That many bytes, and their padding."""
        start, end = self._offset, self._offset + length
        if end > len(self._data):
            raise ValueError("the message is too short")
        self._offset = end + -length % 4
        return self._data[start:end]

    def int32(self) -> int:
        """A signed number of 32 bits."""
        return int.from_bytes(self.opaque(4), "big", signed=True)

    def uint32(self) -> int:
        """An unsigned number of 32 bits."""
        return int.from_bytes(self.opaque(4), "big")

    def string(self) -> str:
        """A string; bytes that are not UTF-8 come out as lone surrogates."""
        return self.opaque(self.uint32()).decode("utf-8", "surrogateescape")

    def optional(self) -> str | None:
        """A string that may be absent."""
        return self.string() if self.uint32() else None


@dataclass(frozen=True)
class Typed:
    """A value together with the type it is sent as; made by ``Int`` and its like, below."""

    tag: int
    layout: str
    value: float | str

    def encode(self) -> bytes:
        """The type's number, then the value."""
        if isinstance(self.value, str):
            return pack("i", self.tag) + string(self.value)
        return pack("i" + self.layout, self.tag, self.value)


# VIR_TYPED_PARAM_INT and so on
Int = partial(Typed, 1, "i")
UInt = partial(Typed, 2, "I")
LLong = partial(Typed, 3, "q")
ULLong = partial(Typed, 4, "Q")
Double = partial(Typed, 5, "d")
Boolean = partial(Typed, 6, "i")
String = partial(Typed, 7, "")

TypedValue = Union[int, Typed]
"""What a test may write as a value: a plain ``int`` is sent as ``ULLong``."""


def typed_params(params: Mapping[str, TypedValue]) -> bytes:
    """A counted list of typed parameters, as in blockStatsFlags and the bulk stats."""
    return array(
        string(name) + (value if isinstance(value, Typed) else ULLong(value)).encode()
        for name, value in list(params.items())
    )
