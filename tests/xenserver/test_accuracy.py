"""How exact usage is, against what the VMs really used."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from tests.support.remote import at_rest
from tests.support.xapi import Pool
from tests.support.xapi.recording import recording
from tests.xenserver.conftest import TRUE
from tests.xenserver.truth import Used, grown, used

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.xenserver.conftest import Opens

# What happens to which VM, after which an interval is not all known.
EVENTS = {
    "A": ("xvde is plugged into A",),
    "B": ("vif 1 is unplugged from B",),
    "C": ("C starts",),
    "D": ("D is shut down (its RRD leaves the host)",),
    "E": ("E reboots (new domid, counters anew)",),
}
POLLS = {"every 10 s": (10,), "every 60 s": (60,), "at random": (1, 3, 7, 13, 29, 61, 100)}


def is_disturbed(pool: Pool, letter: str, begin: float, end: float) -> bool:
    """Say whether something happens to a VM that makes a part of its use unknown."""
    events = recording(pool.name).events
    # What D used after the last of the recorded polls that told of it is nowhere in the data.
    earlier = 65 if letter == "D" else 10
    return any(begin - 5 <= events[name] <= end + earlier for name in EVENTS.get(letter, ()))


def times(pool: Pool, gaps: tuple[int, ...]) -> Iterator[float]:
    """Let time pass until the recording ends."""
    chosen = random.Random(13)
    while pool.now < pool.end:
        pool.now = min(pool.now + chosen.choice(gaps), pool.end)
        yield pool.now


@pytest.mark.parametrize("gaps", POLLS.values(), ids=POLLS)
@pytest.mark.parametrize("data", TRUE)
def test_usage_is_the_truth_where_rows_are(opens: Opens, data: str, gaps: tuple[int, ...]) -> None:
    with Pool(data) as pool:
        inspector = opens(pool)
        letters = {pool.vm(letter).uuid: letter for letter in "ABCDEFGH"}
        inspector.usage_all()
        first = before = inspector.list_hosts()[0].newest or 0
        told: dict[str, Used] = defaultdict(Used)
        true: dict[str, Used] = defaultdict(Used)
        everything: dict[str, Used] = defaultdict(Used)
        for _ in times(pool, gaps):
            usages = {letters[usage.id]: usage for usage in inspector.usage_all()}
            newest = inspector.list_hosts()[0].newest or 0
            for letter, usage in usages.items():
                assert all(value >= 0 for value in used(usage)), (letter, usage)
                everything[letter] = everything[letter].plus(used(usage))
                if is_disturbed(pool, letter, before, newest):
                    continue
                told[letter] = told[letter].plus(used(usage))
                true[letter] = true[letter].plus(grown(pool, letter, before, newest))
            before = newest
        for letter in "ABCDEFGH":
            whole = grown(pool, letter, first, before)
            for name, value, most in zip(Used._fields, everything[letter], whole):
                # Before a new start, something is counted that is in no row; and from 24.40 on, the
                # first row of a disk that was plugged in is too high.
                most *= 1.01 if letter in EVENTS else 1.001
                assert value <= most + 4096, f"{letter} {name}: something was counted twice"
            if letter != "F":
                assert told[letter].cpu > 0
            # The RRD of a paused VM is told late, and so only compared as a whole.
            of, by = (everything, {"F": whole}) if letter == "F" else (told, true)
            for name, error in of[letter].errors(by[letter]).items():
                assert abs(error) < 0.001, f"{letter} {name}: {error:.3%}"


@pytest.mark.parametrize("gaps", POLLS.values(), ids=POLLS)
def test_usage_is_the_truth_once_rows_were_found_wrong(opens: Opens, gaps: tuple[int, ...]) -> None:
    with Pool("xapi-26.17_boundary") as pool:
        inspector = opens(pool)
        inspector.usage_all()
        at_rest(inspector)
        uuids = {letter: pool.vm(letter).uuid for letter in "AFGH"}
        told: dict[str, Used] = defaultdict(Used)
        since, checked = 0.0, pool.now
        for now in times(pool, gaps):
            usages = {usage.id: usage for usage in inspector.usage_all()}
            if not since and now >= checked + 60:
                at_rest(inspector)  # nobody waits for the check
                checked = now
            if since:
                for letter, uuid in uuids.items():
                    told[letter] = told[letter].plus(used(usages[uuid]))
            # What was told too much until then is told less after it, as no sum ever falls.
            elif now >= pool.start + 450 and inspector.list_hosts()[0].exact:
                since = now
        assert since, "that was not found"
        recorded = recording(pool.name)
        begin, end = recorded.reading(since), recorded.reading(pool.end)
        for letter, uuid in uuids.items():
            # That of a disk which is plugged in begins at another time.
            names = ("vbd_xvda", "vbd_xvdb", "vbd_xvdd", "vif_0", "vif_2")
            parts = {
                "cpu": [f"cpu{vcpu}" for vcpu in range(4)],
                "received": [f"{name}_rx" for name in names if "vif" in name],
                "sent": [f"{name}_tx" for name in names if "vif" in name],
            }
            if letter != "A":
                parts["read"] = ["vbd_xvda_read"]
                parts["written"] = ["vbd_xvda_write"]
            for part, sources in parts.items():
                grew = sum(
                    (pool.truth(uuid, name, end) or 0) - (pool.truth(uuid, name, begin) or 0)
                    for name in sources
                )
                if grew:
                    error = getattr(told[letter], part) / grew - 1
                    assert abs(error) < 0.005, f"{letter} {part}: {error:.3%}"
