"""The model as it is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.layout import Layout
from rich.text import Text

from virtmeter.cli import fleet, kinds, states, tables, units
from virtmeter.cli.text import counted, printable, shown_uri
from virtmeter.cli.watch import columns
from virtmeter.cli.watch.model import BY_NAME, ORDERS

if TYPE_CHECKING:
    from rich.console import RenderableType

    from virtmeter.cli.watch.actions import Commands
    from virtmeter.cli.watch.model import Model, Row, Watched

HEAD, TITLES, FOOT = 3, 2, 1
LATE = 2
"""Intervals after which a reading is said to be old."""

BAD, SLOW = "bold red", "bold yellow"

HELP = """\
Keys
  c  w  s   sort by CPU, wait, steal       r     reverse the order
  m  n      by memory, NICs                /     filter by name, id or target
  d  o      by disks' bytes, operations    Esc   show all VMs; close this page
  v         by (target and) name           q     quit, as Ctrl-C does
  ↑ ↓ PgUp PgDn Home End   scroll          ? h   this page

Columns
  CPU            share of the time that the VM's vCPUs have run
  steal          share of the time that they could run, but had no host CPU
  wait           the same by another counter, and not I/O (0 unless the host's
                 kernel has sched_schedstats = 1); vSphere: I/O and swapping
  memory         used in the guest, of the most that it may have; a ? means
                 reported over a minute ago: see virtmeter doctor
  NICs, disks    bytes per second, K = 1024; reads, writes: requests per second
  hung           the VM does not answer: its memory and disks are unknown
  busy           also unknown: it is being migrated, saved, dumped or the like
  away           its target does not answer: all of this is what was read last"""


def room(height: int) -> int:
    """Return how many rows a screen has room for."""
    return max(1, height - HEAD - TITLES - FOOT)


def screen(
    model: Model,
    commands: Commands,
    width: int,
    height: int,
    *,
    now: float,
    note: str = "",
) -> RenderableType:
    """Return all that is on the screen; ``note`` is something that was logged."""
    rows = model.shown()
    model.scroll(0, room(height))
    seen = rows[model.top : model.top + room(height)]
    head = Text("\n", no_wrap=True, overflow="ellipsis").join(
        (
            _targets(model),
            _totals(model),
            _news(model, now, note),
        )
    )
    body: RenderableType = Text(HELP)
    if not commands.help:
        body = tables.table(columns.fitting(rows, width, seen), seen)
    page = Layout()
    page.split_column(
        Layout(head, size=HEAD), Layout(body), Layout(_foot(model, commands, len(rows)), size=FOOT)
    )
    return page


def _targets(model: Model) -> Text:
    rows = model.rows
    known = [(row.state, row.hung) for row in rows if not row.away]
    what = states.told(known, len(rows) - len(known))
    watched = list(model.watched.values())
    read = [each for each in watched if each.taken is not None]
    paces = sorted({each.interval for each in watched})
    pace = " to ".join(f"{each:g}" for each in (paces[0], *paces[1:][-1:]))
    well = [each for each in read if not each.error]
    place = (
        f"{len(well)} of {counted(len(watched), 'target')}" if model.has_names else watched[0].uri
    )
    return Text("   ").join(
        (
            Text(what if read else "reading", style="bold"),
            Text(f"every {pace} s", style="dim"),
            Text(shown_uri(place), style="dim"),
        )
    )


def _totals(model: Model) -> Text:
    """Return what all of them use. Shares of several hosts have no sum, but busy vCPUs have."""
    is_one_host = [kinds.is_libvirt(each.uri) for each in model.watched.values()] == [True]

    def busy_vcpus(row: Row) -> float | None:
        usage = row.usage
        if usage is None or usage.cpu_utilization is None or usage.cpu_number is None:
            return None
        return usage.cpu_utilization / 100 * usage.cpu_number

    def host_cpu(row: Row) -> float | None:
        return row.usage.host_cpu_utilization if row.usage else None

    def memory(row: Row) -> float | None:
        return row.usage.memory_used if row.usage else None

    def kib(name: str) -> str:
        return _kib(model.total(lambda row: row.rate(name)))

    return Text("   ").join(
        Text.assemble((f"{what} ", "dim"), value)
        for what, value in (
            ("host CPU", f"{units.percent(model.total(host_cpu))}%")
            if is_one_host
            else ("busy vCPUs", units.percent(model.total(busy_vcpus))),
            ("memory", _kib(model.total(memory))),
            ("NICs", f"{kib('network_read_kib')}/s in {kib('network_write_kib')}/s out"),
            ("disks", f"{kib('disk_read_kib')}/s read {kib('disk_write_kib')}/s write"),
        )
    )


def _kib(kib: float | None) -> str:
    return units.size(None if kib is None else kib * units.KIB)


def _news(model: Model, now: float, note: str) -> Text:
    """Return what is not as it should be."""
    found = {each.name: news for each in model.watched.values() if (news := _trouble(each, now))}
    if not found:
        return Text(printable(note), style="yellow")
    style = BAD if any(style == BAD for _, style in found.values()) else SLOW
    said = "; ".join(fleet.named(name, what) for name, (what, _) in found.items())
    if len(found) > 1:  # the names first, as there may be no room for all that is said
        said = f"trouble with {', '.join(found)}. {said}"
    return Text(printable(said), style=style)


def _trouble(watched: Watched, now: float) -> tuple[str, str] | None:
    """Return what is wrong with a target, if anything is, and how that is shown."""
    age = 0.0 if watched.taken is None else now - watched.taken
    name = kinds.name(watched.uri)
    if watched.error and watched.taken is None:
        return watched.outage, BAD
    if watched.error:
        return f"{age:.0f} s without {name}, which is tried again: {watched.outage}", BAD
    if age > LATE * watched.interval + 1:
        return f"no reading for {age:.0f} s: {name} or a VM does not answer", SLOW
    if watched.away:
        hosts = "; ".join(
            f"{host} for {age + since:.0f} s: {why}" for host, (why, since) in watched.away.items()
        )
        return f"no answer from {hosts}", BAD
    return None


def _foot(model: Model, commands: Commands, count: int) -> Text:
    if commands.typing:
        return _keys((f"/{printable(model.filter)}▏", ""), ("Enter", "keep"), ("Esc", "show all"))
    order = [
        (key, f"[{ORDERS[key].what}{'▲' if model.reverse != (key == BY_NAME) else '▼'}]")
        if key == model.order
        else (key, ORDERS[key].what)
        for key in ORDERS
        if key == model.order or key in "cmndv"
    ]
    chosen = [("Esc", f"without /{printable(model.filter)}")] if model.filter else []
    scrolled = [("↑↓", f"{model.top + 1} of {count}")] if model.top else []
    return _keys(("q", "quit"), ("?", "help"), ("/", "filter"), *chosen, *order, *scrolled)


def _keys(*keys: tuple[str, str]) -> Text:
    return Text("  ", no_wrap=True, overflow="ellipsis").join(
        Text.assemble((key, "bold cyan"), " ", what) for key, what in keys
    )
