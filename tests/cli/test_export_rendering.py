"""The text of the metrics: what is in it, and that it is made once."""

from __future__ import annotations

import gzip
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

import virtmeter
from tests.cli.exporter import Samples
from tests.support import sample
from virtmeter.cli.export import metrics, texts
from virtmeter.cli.export.connections import GoneError
from virtmeter.cli.export.formats import Format, choose
from virtmeter.cli.export.metrics import Family, label
from virtmeter.cli.export.reading import Pass
from virtmeter.cli.export.rendering import SHARED, Renderer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtmeter.cli.export.texts import Part

KINDS = {
    "inspect_instance": virtmeter.InstanceStats,
    "inspect_vnics": virtmeter.InterfaceStats,
    "inspect_disks": virtmeter.DiskStats,
    "inspect_disk_info": virtmeter.DiskInfo,
}
FORMATS = [Format(*each) for each in product((False, True), repeat=2)]


def a_pass(*numbers: int, complete: bool = True) -> Pass:
    """Return what was read of the sample domains with these numbers."""
    read = Pass()
    read.reached = True
    for number in numbers:
        uuid = f"{number:08x}-2222-3333-4444-555555555555"
        instance = virtmeter.Instance(uuid, f"sample-{number}", virtmeter.PowerState.RUNNING)
        read.instances.append(instance)
        for method, kind in KINDS.items():
            records: list[Any] = [kind(*each) for each in sample.answers(number)[method]]
            read.answers.append((instance, records))
    read.complete = read.ended = complete
    return read


@pytest.fixture
def renderer() -> Iterator[Renderer]:
    with virtmeter.LibvirtInspector("test:///default") as inspector:
        yield Renderer(inspector.health)


@pytest.fixture
def renderings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the VMs' lines were written of."""
    made: list[Any] = []

    def count(*arguments: Any) -> Iterator[Family]:
        made.append(arguments)
        yield from of_domains(*arguments)

    of_domains = metrics.of_domains
    monkeypatch.setattr(metrics, "of_domains", count)
    return made


def joined(body: tuple[Part, ...]) -> bytes:
    return b"".join(part[:] for part in body)


class Only(Collector):
    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def collect(self) -> list[Metric]:
        return [self.metric]


@given(st.text(), st.text(), st.floats())
def test_a_metric_is_written_as_prometheus_client_writes_it(
    first: str, second: str, value: float
) -> None:
    ours = Family("virtmeter_some_seconds", "Help.")
    ours.add(label(("b", "a"), (first, second)), value)
    block = ours.block()
    theirs = GaugeMetricFamily("virtmeter_some", "Help.", labels=("b", "a"), unit="seconds")
    theirs.add_metric((first, second), value)
    registry = CollectorRegistry()
    registry.register(Only(theirs))
    text = block.header(openmetrics=False) + block.lines[:]
    assert text == generate_latest(registry)
    text = block.header(openmetrics=True) + block.lines[:] + b"# EOF\n"
    assert text == generate_openmetrics(registry)  # type: ignore[no-untyped-call]


def test_what_is_there_twice_is_told_once_as_it_was_first(renderer: Renderer) -> None:
    read = a_pass(1, 2)
    instance = read.instances[0]
    sizes: Any = read.answers[3][1]
    read.answers[3] = (instance, [sizes[0]._replace(physical=None)])
    for method, kind in KINDS.items():
        [other] = sample.answers(9)[method]
        record: Any = kind(*other)
        if method == "inspect_vnics":
            record = record._replace(name="tap1")
        read.answers.append((instance, [record]))  # as of another disk with this target
    read.instances.append(instance)  # and the list has this VM twice
    read.instances.append(instance._replace(name="other"))  # and another VM with its UUID
    samples = Samples(joined(renderer.render(read)).decode())
    assert samples("virtmeter_domain_disk_write_requests_total", domain="sample-1") == 3
    assert samples("virtmeter_domain_disk_allocation_bytes", domain="sample-1", disk="vda") == 1
    assert samples("virtmeter_domain_disk_physical_bytes", domain="sample-1") is None, "not mixed"
    assert samples("virtmeter_domain_nic_receive_bytes_total", domain="sample-1", nic="tap1") == 1
    assert samples.all("virtmeter_domain_state", uuid=instance.id) == [1, 1]
    assert samples("virtmeter_domain_state", domain="other") == 1


@pytest.mark.parametrize("value", [-1, -2, -(2**63)])
def test_a_counter_below_zero_is_no_sample(renderer: Renderer, value: int) -> None:
    read = a_pass(1, 2)
    instance = read.instances[0]
    nics: Any = read.answers[1][1]
    read.answers[1] = (instance, [nics[0]._replace(rx_bytes=value)])
    body = joined(renderer.render(read, Format(openmetrics=True, gzip=False))).decode()
    assert [*text_string_to_metric_families(body)], "the parser takes it"  # type: ignore[no-untyped-call]
    samples = Samples(joined(renderer.render(read)).decode())
    assert samples("virtmeter_domain_nic_receive_bytes_total", domain="sample-1") is None
    assert samples("virtmeter_domain_nic_receive_bytes_total", domain="sample-2") == 2


def test_all_who_get_a_pass_share_its_text(renderer: Renderer, renderings: list[Any]) -> None:
    read = a_pass(1, 2, 3)
    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda form: renderer.render(read, form), FORMATS * 4))
    assert len(renderings) == 1
    for body, other in zip(bodies, bodies[len(FORMATS) :]):
        for part, same_part in zip(body[:-1], other):
            assert part is same_part, "a text is made once"
    plain, openmetrics = (joined(body).decode() for body in (bodies[0], bodies[2]))
    for form, body in zip(FORMATS, bodies):
        text = gzip.decompress(joined(body)).decode() if form.gzip else joined(body).decode()
        same = openmetrics if form.openmetrics else plain
        assert without_ages(text) == without_ages(same)
        assert text.endswith("# EOF\n") == form.openmetrics
    names = ["virtmeter_up", "virtmeter_domain_vcpus"]
    chosen = Samples(joined(renderer.render(read, names=names)).decode())
    assert {name for name, _ in chosen.values} == {*names}
    chosen_twice = (renderer.render(read, names=names[1:]) for _ in range(2))
    for part, same_part in zip(*chosen_twice):
        assert part is same_part, "what is chosen of it is no copy"
    assert len(renderings) == 1


def without_ages(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("virtmeter_scrape_age")]


def test_the_age_is_that_of_the_values_whoever_asked_for_them_first(renderer: Renderer) -> None:
    read = a_pass(1)
    first = renderer.render(read)
    time.sleep(0.01)
    later = renderer.render(read)
    assert later[1] is first[1]
    assert age(later) > age(first)


def age(body: tuple[Part, ...]) -> float:
    found = Samples(joined(body).decode())("virtmeter_scrape_age_seconds")
    assert found is not None
    return found


def test_a_pass_that_goes_on_is_rendered_for_all_who_leave_it_at_that_time(
    renderer: Renderer, renderings: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = a_pass(1, complete=False)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(3):
        samples = Samples(joined(renderer.render(read)).decode())
        assert samples("virtmeter_scrape_complete") == 0
    assert len(renderings) == 1
    now += SHARED
    renderer.render(read)
    assert len(renderings) == 2
    read.complete = read.ended = True
    assert Samples(joined(renderer.render(read)).decode())("virtmeter_scrape_complete") == 1
    assert len(renderings) == 3, "what is complete takes its place at once"


def test_who_waits_for_a_text_shares_it_however_long_it_takes_to_make(
    renderer: Renderer, renderings: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def slow(*arguments: Any) -> Iterator[Family]:
        nonlocal now
        yield from of_domains(*arguments)
        now += 2 * SHARED

    def compress(*arguments: Any, **named: Any) -> Any:
        nonlocal now
        now += 2 * SHARED
        return compressobj(*arguments, **named)

    of_domains, compressobj = metrics.of_domains, zlib.compressobj
    monkeypatch.setattr(metrics, "of_domains", slow)
    monkeypatch.setattr(zlib, "compressobj", compress)
    read = a_pass(1, complete=False)
    for form in (*FORMATS, *FORMATS):
        renderer.render(read, form)
    assert len(renderings) == 1


def test_one_thing_is_rendered_at_a_time(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = threading.Lock()

    def alone(*arguments: Any) -> Iterator[Family]:
        assert busy.acquire(blocking=False), "another one is being rendered"
        time.sleep(0.01)
        busy.release()
        return of_domains(*arguments)

    of_domains = metrics.of_domains
    monkeypatch.setattr(metrics, "of_domains", alone)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(lambda number: renderer.render(a_pass(number)), range(8)))) == 8


def test_the_texts_that_are_held_are_bounded_and_the_oldest_go_first(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(joined(renderer.render(a_pass(1))))
    monkeypatch.setattr(texts, "HELD", 10 * size)
    bodies = [renderer.render(a_pass(1), form) for form in FORMATS for _ in range(20)]

    def is_held(part: Part) -> bool:
        with suppress(GoneError):
            return part[:] is not None
        return False

    shared = [part for body in bodies for part in body if isinstance(part, texts.Text)]
    held = [is_held(part) for part in shared]
    assert held == sorted(held), "the later ones are there"
    assert 5 * size < sum(len(part) for part in shared if is_held(part)) <= 10 * size


def test_the_latest_text_is_held_whatever_its_size(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "HELD", 1)
    before, latest = a_pass(1), a_pass(2)
    old = renderer.render(before)
    for form in FORMATS:
        assert joined(renderer.render(latest, form))
    with pytest.raises(GoneError):
        joined(old)
    assert joined(renderer.render(before)), "it is made anew for who comes late"


def test_of_each_hypervisor_the_latest_text_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "HELD", 1)
    shared = texts.Texts()
    with virtmeter.LibvirtInspector("test:///default") as inspector:
        one, other = (Renderer(inspector.health, shared) for _ in range(2))
        old, latest = (one.render(a_pass(number)) for number in (1, 2))
        others = [other.render(a_pass(3), form) for form in FORMATS]
        assert joined(latest)
        assert joined(others[-1])
        for dropped in (old, others[0]):
            with pytest.raises(GoneError):
                joined(dropped)


def test_a_text_that_is_being_made_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "HELD", 1)
    shared = texts.Texts()
    with virtmeter.LibvirtInspector("test:///default") as inspector:
        one, other = (Renderer(inspector.health, shared) for _ in range(2))

        def compress(*arguments: Any, **named: Any) -> Any:
            monkeypatch.setattr(zlib, "compressobj", compressobj)
            assert joined(other.render(a_pass(2)))
            return compressobj(*arguments, **named)

        compressobj = zlib.compressobj
        monkeypatch.setattr(zlib, "compressobj", compress)
        assert joined(one.render(a_pass(1), Format(gzip=True)))


def test_what_nobody_needs_does_not_count(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(joined(renderer.render(a_pass(1))))
    monkeypatch.setattr(texts, "HELD", 3 * size)
    kept = renderer.render(a_pass(1))
    for _ in range(10):
        renderer.render(a_pass(1))
    assert joined(kept)


def test_nothing_is_rendered_for_nobody(renderer: Renderer, renderings: list[Any]) -> None:
    def gone() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        renderer.render(a_pass(1), check=gone)
    assert renderings == []


def test_the_time_for_rendering_is_that_of_the_last_pass_that_was_large_enough(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, took = 0.0, 3.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def slowly(*arguments: Any) -> Iterator[Family]:
        nonlocal now
        now += took
        return of_domains(*arguments)

    of_domains = metrics.of_domains
    monkeypatch.setattr(metrics, "of_domains", slowly)
    large, larger = a_pass(*range(50)), a_pass(*range(100))
    assert 0 < renderer.time_for(large) < 1, "before the first as well"
    renderer.render(large)
    assert renderer.time_for(large) == pytest.approx(3)
    assert renderer.time_for(larger) == pytest.approx(6)
    renderer.render(a_pass(1))
    renderer.render(a_pass())  # as while libvirt is away
    assert renderer.time_for(larger) == pytest.approx(6)

    took = 300  # the process was stopped meanwhile
    renderer.render(a_pass(*range(50)))
    assert renderer.time_for(larger) == pytest.approx(600)
    took = 0.04
    renderer.render(a_pass(2))  # as large as is left time for
    assert renderer.time_for(larger) == pytest.approx(4)


OPENMETRICS = "application/openmetrics-text"


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        (OPENMETRICS, True),
        (f"{OPENMETRICS}; version=1.0.0", True),
        (f"text/html, {OPENMETRICS.upper()} ; Version=0.0.1 ; charset=utf-8;q=0.1", True),
        (f"{OPENMETRICS};version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.3", True),
        (f"{OPENMETRICS};q=0.3,text/plain;version=0.0.4;q=0.6", False),
        (f"{OPENMETRICS};q=0.3,text/plain;version=1.0.0;q=0.6", True),
        (f"{OPENMETRICS};q=0", False),
        (f"{OPENMETRICS};version=9", False),
        (f"{OPENMETRICS};version=x", False),
        (f"{OPENMETRICS};q=x", False),
        (f"{OPENMETRICS};q=nan", False),
        ("text/plain;version=x", False),
        (";;==,,;q=;version", False),
    ],
)
def test_the_format_is_what_the_client_likes_best_of_what_there_is(
    accept: str, openmetrics: bool
) -> None:
    assert choose(accept, "") == Format(openmetrics=openmetrics, gzip=False)


@pytest.mark.parametrize(
    ("accept", "compressed"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("zstd, br", False),
        ("gzip;q=", False),
    ],
)
def test_it_is_compressed_for_who_accepts_that(accept: str, compressed: bool) -> None:
    assert choose("", accept) == Format(openmetrics=False, gzip=compressed)


@given(st.text(), st.text())
def test_any_header_gets_a_format(accept: str, encoding: str) -> None:
    assert choose(accept, encoding) in FORMATS
