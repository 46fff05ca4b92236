"""Generated domains: everything that libvirt may say about one, likely or not."""

from __future__ import annotations

import uuid
from xml.sax.saxutils import quoteattr

from hypothesis import strategies as st

from tests.support import xdr
from tests.support.procedures import VIR_DOMAIN_SHUTOFF, Disk, Domain

U64 = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 10**7), st.just(2**63))
I64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(0, 10**12), st.just(-1))
# What XML can carry and libvirt can be asked for: no control characters, no surrogates.
TEXT = st.text(st.characters(exclude_categories=["C"]), max_size=12)
NAMES = st.one_of(st.from_regex(r"[a-z]{1,4}[0-9]{0,3}", fullmatch=True), TEXT.filter(bool))
RARELY = st.integers(0, 9).map(lambda number: number == 0)


def attribute(name: str, value: str | None) -> str:
    """Return an attribute as XML has it, or nothing."""
    return "" if value is None else f" {name}={quoteattr(value)}"


@st.composite
def vcpus(draw: st.DrawFn) -> dict[str, xdr.TypedValue]:
    """Statistics of vCPUs, with holes, and sometimes without times, waits or totals."""
    stats: dict[str, xdr.TypedValue] = {}
    maximum = draw(st.integers(0, 9))
    present = draw(st.sets(st.integers(0, 9), max_size=9))
    for number in present:
        if not draw(RARELY):
            stats[f"vcpu.{number}.time"] = draw(U64)
        if not draw(RARELY):
            stats[f"vcpu.{number}.wait"] = draw(U64)
        stats[f"vcpu.{number}.state"] = xdr.Int(draw(st.integers(0, 3)))
        stats[f"vcpu.{number}.halted"] = xdr.Boolean(draw(st.booleans()))
    if not draw(RARELY):
        stats["vcpu.maximum"] = xdr.UInt(maximum)
    if not draw(RARELY):
        current = draw(st.one_of(st.just(len(present)), st.integers(0, 9)))
        stats["vcpu.current"] = xdr.UInt(current)
    if not draw(RARELY):
        stats["cpu.time"] = draw(U64)
    for counter in draw(st.sets(st.sampled_from(PERF))):
        stats[f"perf.{counter}"] = draw(U64)
    return stats


PERF = ("cpu_cycles", "instructions", "cache_references", "cache_misses", "page_faults")


@st.composite
def interface(draw: st.DrawFn) -> tuple[str, str | None]:
    """A NIC's XML and the name of its device."""
    name = draw(st.none() if draw(RARELY) else NAMES)
    parts = []
    if not draw(RARELY):
        parts.append(f"<target{attribute('dev', name)}/>")
    if not draw(RARELY):
        parts.append(f"<mac{attribute('address', draw(st.none() | TEXT))}/>")
    if draw(st.booleans()):
        parts.append(f"<source{attribute('bridge', draw(st.none() | TEXT))}/>")
    if draw(st.booleans()):
        port = attribute("interfaceid", draw(st.none() | TEXT))
        parts.append(
            f"<virtualport>{draw(st.sampled_from(['', f'<parameters{port}/>']))}</virtualport>"
        )
    if draw(st.booleans()):
        parameters = "".join(
            f"<parameter{attribute('name', key)}{attribute('value', value)}/>"
            for key, value in draw(st.lists(st.tuples(TEXT, st.none() | TEXT), max_size=3))
        )
        parts.append(
            f"<filterref{attribute('filter', draw(st.none() | TEXT))}>{parameters}</filterref>"
        )
    parts = draw(st.permutations(parts))
    return f"<interface type='bridge'>{''.join(parts)}</interface>", name


@st.composite
def disk(draw: st.DrawFn) -> tuple[str, str | None]:
    """A disk's XML and the name of its target."""
    name = draw(st.one_of(st.none(), st.just("")) if draw(RARELY) else NAMES)
    parts = [f"<target{attribute('dev', name)} bus='virtio'/>"]
    if not draw(RARELY):
        parts.append("<source file='/x'/>")
    if draw(st.booleans()):
        parts.append("<backingStore type='file'><source file='/y'/></backingStore>")
    return f"<disk type='file'>{''.join(draw(st.permutations(parts)))}</disk>", name


@st.composite
def domains(draw: st.DrawFn) -> Domain:
    """A domain of which some devices may be refused, of QEMU's driver or another."""
    # QEMU's driver counts up from 0, knows nothing of errors, and tells what a balloon leaves to
    # the guest just where there is one.
    bulk = draw(st.booleans())
    number = st.integers(0, 2**63 - 1) if bulk else I64
    balloon = draw(st.booleans())
    memory = draw(st.dictionaries(st.integers(0, 12), U64))
    if bulk and balloon:
        memory[6] = draw(U64)
    elif bulk:
        memory.pop(6, None)
    nics = draw(st.lists(interface(), max_size=3))
    disks = draw(st.lists(disk(), max_size=3))
    others = [
        f"<memballoon model='{'virtio' if balloon else 'none'}'/>",
        "<t:disk xmlns:t='urn:t'><source/></t:disk>",
        "<!-- -->",
    ]
    devices = draw(st.permutations([xml for xml, _ in (*nics, *disks)] + others))
    split = draw(st.integers(0, len(devices)))
    return Domain(
        uuid=str(uuid.UUID(int=draw(st.integers(0, 2**128 - 1)))),
        name=draw(NAMES),
        state=draw(st.sampled_from([1, 1, 1, 0, 2, 3, 4, 6, 7, VIR_DOMAIN_SHUTOFF])),
        max_memory_kib=draw(st.integers(0, 2**60)),
        memory_kib=draw(st.integers(0, 2**60)),
        vcpus=draw(st.integers(0, 2**16 - 1)),
        cpu_time=draw(U64),
        # libvirt's own XML has one <devices>; several are read as one.
        xml=(
            f"<domain type='kvm'><name>x</name><devices>{''.join(devices[:split])}</devices>"
            f"<metadata/><devices>{''.join(devices[split:])}</devices></domain>"
        ),
        interfaces={
            name: draw(st.tuples(*[st.just(-1) | number] * 8))
            for _, name in nics
            if name and not draw(RARELY)
        },
        disks={
            name: Disk(
                stats=draw(st.tuples(*[number] * 4, st.just(-1) if bulk else I64)),
                flags={
                    "rd_total_times": xdr.LLong(draw(number)),
                    "wr_total_times": xdr.LLong(draw(number)),
                    **draw(st.dictionaries(st.sampled_from(["errs", "flush_operations"]), U64)),
                },
                info=draw(st.tuples(U64, U64, U64)),
            )
            for _, name in disks
            if name
        },
        memory=memory,
        stats=draw(vcpus()),
        bulk=bulk,
    )
