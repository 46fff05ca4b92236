"""The texts that answers share, and how many bytes of them are held for who receives slowly."""

from __future__ import annotations

import threading
import weakref
from itertools import chain
from typing import Union

from virtmeter.cli.export.connections import GoneError

HELD = 64_000_000
"""Bytes of all texts but the latest ones of each hypervisor, which are held in any case."""


class Text:
    """Bytes that clients take piece by piece, and that can be dropped before all have them."""

    def __init__(self, content: bytes) -> None:
        """Take all of it."""
        self._content = content
        self._length = len(content)
        self.dropped = False

    def __len__(self) -> int:
        """Return how many bytes it has, or had."""
        return self._length

    def __getitem__(self, which: slice) -> bytes:
        """Return a piece.

        :raises GoneError: it was dropped.
        """
        content = self._content
        if self.dropped:
            raise GoneError
        return content[which]

    def drop(self) -> None:
        """Hold it no longer."""
        self.dropped = True
        self._content = b""


Part = Union[bytes, Text]
"""Of the body of an answer: of its own, or shared."""


class Texts:
    """All texts that somebody still needs, the oldest ones first, of whatever is rendered."""

    def __init__(self) -> None:
        """Begin without any."""
        self._lock = threading.Lock()
        self._known: list[weakref.ref[Text]] = []
        self._latest: weakref.WeakKeyDictionary[object, weakref.WeakSet[Text]] = (
            weakref.WeakKeyDictionary()
        )
        """By who makes them."""

    def spare(self, maker: object, latest: weakref.WeakSet[Text]) -> None:
        """Have these be the latest of a maker, and those that are still to be made for them."""
        with self._lock:
            self._latest[maker] = latest

    def hold(self, content: bytes, those: weakref.WeakSet[Text]) -> Text:
        """Return a text that counts until nobody needs it any more, and is one of those."""
        text = Text(content)
        with self._lock:
            self._known.append(weakref.ref(text))
            those.add(text)
        return text

    def bound(self) -> None:
        """Drop the oldest ones, if they are too many bytes beside the latest of each maker."""
        with self._lock:
            texts = [text for text in (each() for each in self._known) if text is not None]
            latest = set(chain.from_iterable(self._latest.values()))
            older = [text for text in texts if text not in latest]
            excess = sum(map(len, older)) - HELD
            for text in older:
                if excess > 0:
                    text.drop()
                    excess -= len(text)
            self._known = [weakref.ref(text) for text in texts if not text.dropped]
