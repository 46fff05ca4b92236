"""A simulated vCenter in real time, until its standard input ends.

It prints one line of JSON: virtmeter's `uri`, the `user`, the `password` and a file that holds it,
and the address of the `control` port: see server/control.go.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

from tests.support.vcsim.vcenter import VCenter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--vms", type=int, default=16, help="that are on")
    parser.add_argument("--off", type=int, default=0, help="VMs that are off")
    parser.add_argument("--suspended", type=int, default=0, help="VMs that are suspended")
    parser.add_argument("--templates", type=int, default=0)
    parser.add_argument("--nova", type=int, help="how many of them are Nova's")
    parser.add_argument("--esxi", action="store_true", help="a single ESXi host")
    parser.add_argument("--port", type=int, default=0)
    given = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as directory, VCenter(**given, now=None) as vcenter:
        file = Path(directory) / "password"
        file.touch(mode=0o600)
        file.write_text(vcenter.password)
        told = {
            "uri": f"{vcenter.uri}&password_file={file}",
            "user": "monitor",
            "password": vcenter.password,
            "password_file": str(file),
            "control": vcenter.control_url,
        }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
