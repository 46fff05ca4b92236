"""Makes the text of what a pass has read: once, for all who get it."""

from __future__ import annotations

import threading
import time
import zlib
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

from virtmeter.cli.export import metrics
from virtmeter.cli.export.formats import Format
from virtmeter.cli.export.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from virtmeter import Health
    from virtmeter.cli.export.metrics import Block
    from virtmeter.cli.export.reading import Pass, Snapshot
    from virtmeter.cli.export.texts import Part, Text

SHARED = 1.0
"""Seconds for which the text of a pass that goes on serves others who can wait no longer either."""

SECONDS_AN_ANSWER = 0.00005
"""How long it takes to render an answer, until that is known."""
ENOUGH = 100
"""Answers that have to be rendered to know it."""

GZIP = 16 + zlib.MAX_WBITS
FAST = 1
"""Of zlib's levels: the usual one takes as long as all the rest, for a tenth less to send."""


class Renderer:
    """Renders one thing at a time, and none twice."""

    def __init__(self, health: Callable[[], Health], texts: Texts | None = None) -> None:
        """Take who knows the inspector's health.

        :param texts: the texts of others, which count together with these.
        """
        self._health = health
        self._lock = threading.Lock()
        self._renderings: WeakKeyDictionary[Pass, Rendering] = WeakKeyDictionary()
        self._texts = texts or Texts()
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
    ) -> tuple[Part, ...]:
        """Return the text, in parts, some of which may be dropped later: see ``texts``.

        :param names: only these metrics.
        :param check: raises what is to be raised when nobody wants it any more.
        """
        with self._lock:
            check()
            began = time.monotonic()
            health = self._health()
            rendering = self._renderings.get(current)
            is_new = rendering is None or not rendering.is_good_for(current)
            if rendering is None or is_new:
                rendering = Rendering(current.snapshot(), health.hung, self._texts)
                self._renderings[current] = rendering
            self._texts.spare(self, rendering.texts)
            text = rendering.text(form, names, health)
            if is_new and rendering.size:
                seconds = (time.monotonic() - began) / rendering.size
                # The process may have been stopped meanwhile, and passes be small because of that.
                if rendering.size >= ENOUGH or seconds < self._seconds_an_answer:
                    self._seconds_an_answer = seconds
            self._texts.bound()
            return text


class Rendering:
    """What one pass has read by now.

    The VMs' part is made once; where it is known when counters began, once for OpenMetrics and once
    for the text format, which has no place for that. What is said of the scrape and of the
    inspector follows it, and is made for each who asks, so that the age is right.
    """

    def __init__(self, snapshot: Snapshot, hung: Collection[str], texts: Texts) -> None:
        """Write nothing yet.

        :param texts: holds what is written.
        """
        self._snapshot, self._hung, self._hold = snapshot, hung, texts.hold
        self.size = len(snapshot.answers)
        self._made = time.monotonic()
        """When the last of what is shared was there: whoever has waited for it shares it."""
        self.texts: WeakSet[Text] = WeakSet()
        """What is shared of it."""
        self._blocks: dict[bool, list[Block]] = {}
        """The lines of the VMs' metrics, without and with the times when counters began."""
        self._gzipped: dict[Format, tuple[Text, zlib._Compress]] = {}

    def is_good_for(self, current: Pass) -> bool:
        """Return whether this is as much as the pass has read, or nearly while that goes on."""
        if any(text.dropped for text in self.texts):
            return False
        if self._snapshot.final:
            return True
        return not current.ended and time.monotonic() - self._made < SHARED

    def text(self, form: Format, names: Collection[str] | None, health: Health) -> tuple[Part, ...]:
        """Return all of it; or only some metrics, and these never compressed.

        What is said of VMs is shared by all who get it, and never copied for one of them.
        """
        read = self._snapshot
        families = (
            *metrics.of_scrape(read),
            *metrics.of_hosts(read, health),
            *metrics.of_engine(health, read.hypervisor),
        )
        others = [family.block() for family in families]
        domains = self._domains(form)
        end = b"# EOF\n" if form.openmetrics else b""
        if names is not None:
            chosen = [each for each in (*domains, *others) if each.name in names]
            return (*_parts(chosen, form), end)
        tail = _joined(others, form) + end
        if not form.gzip:
            return (*_parts(domains, form), tail)
        if form not in self._gzipped:
            compressor = zlib.compressobj(FAST, wbits=GZIP)
            pieces = [compressor.compress(part[:]) for part in _parts(domains, form)]
            self._gzipped[form] = self._shared(b"".join(pieces)), compressor
            self._made = time.monotonic()
        shared, compressor = self._gzipped[form]
        compressor = compressor.copy()  # it goes on from where the VMs' part has ended
        return (shared, compressor.compress(tail) + compressor.flush())

    def _domains(self, form: Format) -> list[Block]:
        has_created = form.openmetrics and bool(self._snapshot.created)
        if has_created not in self._blocks:
            families = metrics.of_domains(self._snapshot, self._hung)
            blocks = (family.block(openmetrics=has_created) for family in families)
            self._blocks[has_created] = [
                block._replace(lines=self._shared(block.lines[:])) for block in blocks
            ]
            self._made = time.monotonic()
        return self._blocks[has_created]

    def _shared(self, content: bytes) -> Text:
        return self._hold(content, self.texts)


def _parts(blocks: Iterable[Block], form: Format) -> Iterator[Part]:
    for each in blocks:
        yield each.header(openmetrics=form.openmetrics)
        yield each.lines


def _joined(blocks: Iterable[Block], form: Format) -> bytes:
    return b"".join(part[:] for part in _parts(blocks, form))
