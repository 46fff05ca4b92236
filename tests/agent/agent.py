"""What an agent does at its start, and one polling: to be run by the Python of each Ceilometer.

It loads every compute pollster in the way of ``ceilometer-polling``, waits for a line at its input
(or for its end), polls each of them once or more often, and prints what came of it the last time.
Before each further polling it prints a line, and waits for one.
Not more than the agent's process itself is left out: its timers, and publishing.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys
import time
from types import SimpleNamespace


def main(
    config: str, order: str, without_libvirt: bool, uuids: list[str], pollings: int = 1
) -> None:
    if without_libvirt:
        sys.modules["libvirt"] = None  # type: ignore[assignment]
    put_virtmeter(order)
    records: list[logging.LogRecord] = []

    from ceilometer import service

    conf = service.prepare_service(["agent"], [config])
    # It has taken both over.
    sys.excepthook = sys.__excepthook__
    keep = logging.Handler()
    keep.emit = records.append  # type: ignore[assignment]
    logging.getLogger().handlers = [keep]
    logging.getLogger().setLevel(logging.INFO)

    from ceilometer.polling import manager, plugin_base

    agent = SimpleNamespace(conf=conf, _get_ext_mgr=manager.AgentManager._get_ext_mgr)
    extensions = [
        *manager.AgentManager._extensions(agent, "poll", "compute", conf).extensions,
        *manager.AgentManager._extensions_from_builder(agent, "poll", "compute"),
    ]
    # As the agent's launcher does, after it has loaded them all.
    conf.log_opt_values(logging.getLogger("cotyledon"), logging.DEBUG)
    print("loaded", flush=True)
    sys.stdin.readline()
    servers, inspectors = [server(uuid) for uuid in uuids], set()
    for polling in range(pollings):
        if polling:
            print("polled", flush=True)
            sys.stdin.readline()
            time.sleep(1)  # the shortest interval of an agent
        samples, not_provided = [], []
        cache: dict[str, object] = {}  # of one cycle, for all pollsters
        for extension in extensions:
            try:
                found = list(extension.obj.get_samples(None, cache, servers))
            except plugin_base.PollsterPermanentError:
                not_provided.append(extension.name)
            else:
                samples += [[s.name, s.type, s.unit, s.volume, s.resource_id] for s in found]
            if hasattr(extension.obj, "inspector"):
                inspectors.add(type(extension.obj.inspector).__module__)
    logged = [[r.name, r.levelname, r.getMessage(), bool(r.exc_info)] for r in records]
    names = [extension.name for extension in extensions]
    print(json.dumps([samples, not_provided, sorted(inspectors), names, logged]))


def put_virtmeter(order: str) -> None:
    """Let stevedore, which asks in no certain order, find virtmeter's pollster first or last."""
    from stevedore import _cache

    distributions = list(importlib.metadata.distributions())
    last = order == "last"
    distributions.sort(key=lambda found: (found.metadata["Name"] == "virtmeter") == last)
    importlib.metadata.distributions = lambda **_: iter(distributions)
    # No file can be in there, not even root's, so that the order is not that of another time.
    _cache._c._dir = "/dev/null"


def server(uuid: str) -> SimpleNamespace:
    """Return what discovery would have found."""
    sizes = {"vcpus": 1, "ram": 1, "disk": 1, "ephemeral": 1}
    return SimpleNamespace(
        id=uuid,
        name="x",
        flavor={"id": "1", "name": "f", **sizes},
        image=None,
        hostId="h",
        status="active",
        metadata={},
        tenant_id="t",
        user_id="u",
    )


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
