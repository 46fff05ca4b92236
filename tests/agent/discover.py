"""Discovers the instances twice, as Ceilometer does and as virtmeter does, and prints both.

To be run by the Python of each Ceilometer. Nova's API is played by a stand-in, which keeps what it
is asked for.
"""

from __future__ import annotations

import json
import logging
import sys
from types import SimpleNamespace
from typing import Any


def main(config: str) -> None:
    from ceilometer import service
    from ceilometer.compute.discovery import InstanceDiscovery

    import virtmeter
    from virtmeter.ceilometer import discovery
    from virtmeter.ceilometer.inspector import connection_uri

    conf = service.prepare_service(["agent"], [config])
    sys.excepthook = sys.__excepthook__
    logged: list[str] = []
    keep = logging.Handler()
    keep.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().handlers = [keep]
    answers = []
    for ours in (False, True):
        if ours:
            discovery.activate(virtmeter.LibvirtInspector(connection_uri(conf)))
        logged.clear()
        finder, asked = InstanceDiscovery(conf), list[Any]()
        finder.nova_cli = SimpleNamespace(nova_client=nova(asked))
        found = [vars(instance) for instance in finder.discover(None)]
        answers.append([sorted(found, key=lambda each: str(each["id"])), asked, list(logged)])
    print(json.dumps(answers))


def nova(asked: list[Any]) -> SimpleNamespace:
    """Return a client of Nova's API that knows one flavor and the servers."""

    def find(name: str, is_public: None) -> SimpleNamespace:
        from novaclient import exceptions

        asked.append(["flavor", name, is_public])
        if name != "known":
            raise exceptions.NotFound(404)
        return SimpleNamespace(id=f"id-of-{name}")

    def get(uuid: str) -> SimpleNamespace:
        asked.append(["server", uuid])
        return SimpleNamespace(flavor={"id": f"flavor-of-{uuid}"}, metadata={"group": "g"})

    return SimpleNamespace(flavors=SimpleNamespace(find=find), servers=SimpleNamespace(get=get))


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
