"""Makes the text of what a pass has read: once, for all who get it."""

from __future__ import annotations

import threading
import time
import zlib
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from virtmeter.cli.exporter import metrics
from virtmeter.cli.exporter.formats import Format

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from virtmeter import Health
    from virtmeter.cli.exporter.metrics import Block
    from virtmeter.cli.exporter.reading import Pass, Snapshot

SHARED = 1.0
"""Seconds for which the text of a pass that goes on serves others who can wait no longer either."""

SECONDS_AN_ANSWER = 0.00005
"""How long it takes to render an answer, until that is known."""
ENOUGH = 100
"""Answers that have to be rendered to know it."""

GZIP = 16 + zlib.MAX_WBITS


class Renderer:
    """Renders one thing at a time, and none twice."""

    def __init__(self, health: Callable[[], Health]) -> None:
        """Take who knows the inspector's health."""
        self._health = health
        self._lock = threading.Lock()
        self._renderings: WeakKeyDictionary[Pass, Rendering] = WeakKeyDictionary()
        self._seconds_an_answer = SECONDS_AN_ANSWER

    def time_for(self, current: Pass) -> float:
        """Return the seconds that it takes, going by the last time, as far as a pass has come."""
        return len(current.answers) * self._seconds_an_answer

    def render(
        self,
        current: Pass,
        form: Format = Format(),  # noqa: B008 - nobody can change it
        names: Collection[str] | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> tuple[bytes, ...]:
        """Return the text, in parts.

        :param names: only these metrics.
        :param check: raises what is to be raised when nobody wants it any more.
        """
        with self._lock:
            check()
            began = time.monotonic()
            health = self._health()
            rendering = self._renderings.get(current)
            if rendering is not None and rendering.is_good_for(current):
                return rendering.text(form, names, health)
            snapshot = current.snapshot()
            rendering = self._renderings[current] = Rendering(snapshot, health.hung)
            text = rendering.text(form, names, health)
            if len(snapshot.answers) >= ENOUGH:
                self._seconds_an_answer = (time.monotonic() - began) / len(snapshot.answers)
            return text


class Rendering:
    """What one pass has read by now.

    The VMs' part is made once. What is said of the scrape and of the inspector follows it, and is
    made for each who asks, so that the age is right.
    """

    def __init__(self, snapshot: Snapshot, hung: Collection[str]) -> None:
        """Write the lines of the VMs' metrics."""
        self._snapshot = snapshot
        self._made = time.monotonic()
        self._domains = [family.block() for family in metrics.of_domains(snapshot, hung)]
        self._texts: dict[Format, tuple[bytes, zlib._Compress | None]] = {}

    def is_good_for(self, current: Pass) -> bool:
        """Return whether this is as much as the pass has read, or nearly while that goes on."""
        if self._snapshot.final:
            return True
        return not current.ended and time.monotonic() - self._made < SHARED

    def text(
        self, form: Format, names: Collection[str] | None, health: Health
    ) -> tuple[bytes, ...]:
        """Return all of it; or only some metrics, and these never compressed.

        What is said of VMs is shared by all who get it, and never copied for one of them.
        """
        families = (*metrics.of_scrape(self._snapshot), *metrics.of_engine(health))
        others = [family.block() for family in families]
        end = b"# EOF\n" if form.openmetrics else b""
        if names is not None:
            chosen = [each for each in (*self._domains, *others) if each.name in names]
            return (*_parts(chosen, form), end)
        if form not in self._texts:
            self._texts[form] = self._encode(form)
        text, compressor = self._texts[form]
        tail = b"".join(_parts(others, form)) + end
        if compressor:
            compressor = compressor.copy()  # it goes on from where the VMs' part has ended
            tail = compressor.compress(tail) + compressor.flush()
        return (text, tail)

    def _encode(self, form: Format) -> tuple[bytes, zlib._Compress | None]:
        """Return the VMs' part in a format, with what compresses the rest."""
        text = b"".join(_parts(self._domains, form))
        if not form.gzip:
            return text, None
        compressor = zlib.compressobj(wbits=GZIP)
        return compressor.compress(text), compressor


def _parts(blocks: Iterable[Block], form: Format) -> Iterator[bytes]:
    for each in blocks:
        yield each.header(openmetrics=form.openmetrics)
        yield each.lines
