"""A process that asks Ceilometer's own inspector, which may hang: a line in, a line out, in JSON.

Its first line says whether it can work at all. It is started by ``child.py``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from types import SimpleNamespace
from typing import Any


def make_inspector(uri: str) -> Any:  # noqa: ANN401 - Ceilometer has no types
    """Return the stock inspector, configured as an agent would; no plugin gets at it here."""
    from ceilometer.compute import discovery
    from ceilometer.compute.virt.libvirt import utils
    from ceilometer.compute.virt.libvirt.inspector import LibvirtInspector
    from oslo_config import cfg

    conf = cfg.ConfigOpts()
    conf.register_opts(utils.OPTS)
    conf.register_opts(discovery.OPTS, group="compute")
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("libvirt_uri", uri or default_uri())
    return LibvirtInspector(conf)


def default_uri() -> str:
    """Return what libvirt itself would connect to."""
    import libvirt

    if uri := os.environ.get("LIBVIRT_DEFAULT_URI"):
        return uri
    connection = libvirt.openReadOnly(None)
    try:
        return str(connection.getURI())
    finally:
        connection.close()


def ask(inspector: Any, method: str, uuid: str) -> dict[str, Any]:  # noqa: ANN401
    """Return what comes of one question, and how long it took."""
    began = time.perf_counter()
    answer: dict[str, Any]
    try:
        said = getattr(inspector, method)(SimpleNamespace(id=uuid), None)
        records = [said] if method == "inspect_instance" else list(said)
        answer = {"records": [as_dict(record) for record in records]}
    except Exception as error:  # noqa: BLE001 - whatever it raises is its answer
        answer = {"raised": type(error).__name__}
    return {**answer, "seconds": time.perf_counter() - began}


def as_dict(record: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a record, named tuple or not, by its fields."""
    names = getattr(record, "_fields", None) or record.fields
    return {name: getattr(record, name) for name in names}


def main() -> None:
    """Answer questions until there are no more."""
    # Whatever a library prints is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(what: dict[str, Any]) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    try:
        import ceilometer.compute.virt.libvirt.inspector  # noqa: F401
        import libvirt
    except ImportError as error:
        say({"failed": f"{error}"})
        return
    say({})
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        inspector = make_inspector(json.loads(sys.stdin.readline()))
    except Exception as error:  # noqa: BLE001
        say({"failed": f"{error}"})
        return
    say({})
    for line in sys.stdin:
        say(ask(inspector, *json.loads(line)))


if __name__ == "__main__":
    main()
