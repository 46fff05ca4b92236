"""The command itself: its options, and its way through the parts beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

import virtmeter
from virtmeter.cli import connection, kinds
from virtmeter.cli.check import documented
from virtmeter.cli.check.child import Stock
from virtmeter.cli.check.run import Result, run
from virtmeter.cli.selection import select
from virtmeter.cli.text import printable

if TYPE_CHECKING:
    from virtmeter import Instance
    from virtmeter.cli.check.differences import Difference


@click.command()
@click.argument("instances", nargs=-1, metavar="[INSTANCE]...")
@connection.table_or_json
@connection.connects
def check(uri: str, timeout: float, workers: int, instances: tuple[str, ...], form: str) -> int:
    """Compare virtmeter with Ceilometer's own inspector on this host.

    Reads every VM, or those given by UUID, name or name pattern, with both inspectors, and prints
    what differs and how long each took. Changes nothing. Needs Ceilometer and libvirt-python in
    the environment that virtmeter is installed in. Exit status 0: there are no differences other
    than those that docs/parity.md explains.

    \b
    Examples:
      virtmeter check
      virtmeter check --uri qemu:///system 'instance-*'
      virtmeter check --format json | jq .differences
    """
    if not kinds.is_libvirt(uri):
        raise click.UsageError(
            f"Ceilometer has no inspector of {kinds.name(uri)} to compare with: "
            "'virtmeter check' needs a URI of libvirt's"
        )
    with connection.inspector(uri, timeout, workers, parity=True, quiet=True, opens=2) as inspector:
        chosen = select(inspector.list_instances(), instances, stopped=True)
        exact = virtmeter.LibvirtInspector(
            uri, timeout=timeout, workers=workers, max_age=0, parity=True, all_vnics=False
        )
        with Stock(uri, timeout) as stock:
            result = run(inspector, exact, stock, chosen)
    click.echo(as_json(result) if form == "json" else "\n".join(lines(result)))
    return int(bool(result.silent or undocumented(result)))


def undocumented(result: Result) -> list[tuple[Instance, Difference]]:
    """Return the differences that nobody has explained."""
    return [each for each in result.differences if documented.row(each[1]) is None]


def lines(result: Result) -> list[str]:
    """Return the result in words."""
    said = [f"{'':18} {'stock':>11} {'virtmeter':>11}"]
    total = [sum(each) for each in zip(*result.seconds.values())]
    for what, (stock, ours) in {**result.seconds, "all": (total[0], total[1])}.items():
        times = f"{stock / ours:8.1f} x" if ours and stock else ""
        said.append(f"{what:18} {stock * 1e3:8.1f} ms {ours * 1e3:8.1f} ms {times}".rstrip())
    said.append("")
    said += [
        f"{named(instance)}: the stock inspector did not answer; not compared"
        for instance in result.silent
    ]
    for instance, each in result.differences:
        where = " ".join(filter(None, (each.method, each.device, each.field)))
        what = f"{named(instance)}: {where}: stock {each.stock!r}, virtmeter {each.ours!r}"
        row = documented.row(each)
        said.append(printable(what) + (f"; differs as documented: {row}" if row else ""))
    compared = len(result.instances) - len(result.silent)
    number = len(undocumented(result))
    known = len(result.differences) - number
    found = f"{number or 'no'} difference(s)"
    also = f", and {known} as documented" if known else ""
    said.append(f"{result.values} values of {compared} VM(s) compared: {found}{also}")
    return said


def named(instance: Instance) -> str:
    """Return what to call a VM."""
    return f"{printable(instance.name)} ({instance.id})"


def as_json(result: Result) -> str:
    """Return the result for programs."""
    return json.dumps(
        {
            "virtmeter": virtmeter.__version__,
            "vms": len(result.instances),
            "values": result.values,
            "seconds": {
                method: {"stock": stock, "virtmeter": ours}
                for method, (stock, ours) in result.seconds.items()
            },
            "no_answer": [{"id": each.id, "name": each.name} for each in result.silent],
            "differences": [
                {
                    "id": instance.id,
                    "name": instance.name,
                    "method": each.method,
                    "device": each.device,
                    "field": each.field,
                    "stock": each.stock,
                    "virtmeter": each.ours,
                    "documented": documented.row(each),
                }
                for instance, each in result.differences
            ],
        },
        indent=2,
    )
