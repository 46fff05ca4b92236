"""Run the benchmarks: ``python -m benches [PART ...]``, all parts without a name."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benches import foreign, machine, memory, overhead, peers, plot, real, report, scripted
from benches.fleet import bench as fleet
from benches.vsphere import bench as vsphere
from benches.xenserver import bench as xenserver

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.report import Part

DOCS = Path(__file__).parents[1] / "docs"

HEAD = """\
# Benchmarks

What `make bench` has measured: virtmeter beside the inspector of Ceilometer, in one run. Where a
part does not say otherwise, those that are compared take turns, each in a process of its own, and
numbers are medians. Each cycle comes after a pause that is longer than what was read ahead may be
used, as the cycles of an agent do. `make bench ONLY=real` prints one part (or `foreign`,
`overhead`, `scripted`, `peers`, `memory`, `xenserver`, `vsphere`, `fleet`) without changing this
page, and `python -m benches --update real` replaces that part of it."""


def main() -> None:
    """Measure, print, and write the page if nothing was left out."""
    parser = argparse.ArgumentParser(prog="python -m benches", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="real, scripted, peers, …")
    parser.add_argument("--update", action="store_true", help="replace these parts on the page")
    parser.add_argument("--guests", type=int, default=40, help="real guests (default: 40)")
    arguments = parser.parse_args()
    known: dict[str, Callable[[], Part]] = {
        "real": partial(real.part, arguments.guests),
        "foreign": partial(foreign.part, arguments.guests),
        "overhead": overhead.part,
        "scripted": scripted.part,
        "peers": partial(peers.part, arguments.guests),
        "memory": memory.part,
        "xenserver": xenserver.part,
        "vsphere": vsphere.part,
        "fleet": fleet.part,
    }
    if unknown := set(arguments.parts) - set(known):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    found = []
    for name in arguments.parts or known:
        print(f"virtmeter: measuring {name}", file=sys.stderr)
        found.append(known[name]())
    page = "\n\n".join(
        [
            HEAD,
            machine.description(),
            *([] if arguments.parts else ["![Time for one VM](benchmarks.svg)"]),
            *(["## Targets", targets] if (targets := report.targets(found)) else []),
            *(part.markdown() for part in found),
        ]
    )
    print(page)
    if arguments.update:
        whole = (DOCS / "benchmarks.md").read_text()
        (DOCS / "benchmarks.md").write_text(report.updated(whole, found))
    elif not arguments.parts:
        (DOCS / "benchmarks.md").write_text(f"{page}\n")
        plot.draw([point for part in found for point in part.points], DOCS / "benchmarks.svg")
    else:
        return
    for part in found:
        for name, draw in part.pictures.items():
            draw(DOCS / name)


if __name__ == "__main__":
    main()
