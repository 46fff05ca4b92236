"""Discovery of the instances from what Nova wrote into their metadata, read by virtmeter.

What an instance is like differs between Ceilometer releases, and so does what they ask Nova for.
Which of them this one is shows in the methods of its ``InstanceDiscovery``.
"""

from __future__ import annotations

import hashlib
import logging
import time
from typing import TYPE_CHECKING, Any

from ceilometer.compute.discovery import InstanceDiscovery, NovaLikeServer
from ceilometer.compute.virt.libvirt import utils

from virtmeter.cli.text import printable

if TYPE_CHECKING:
    from oslo_config import cfg

    from virtmeter import Inspector, Server

LOG = logging.getLogger(__name__)

METHOD = "discover_libvirt_polling"
# 2025.2 and later: flavor ids, extra specs and image properties are read from the metadata.
READS_ALL = hasattr(InstanceDiscovery, "_get_flavor_extra_specs")
# 2025.1 does, 2024.1 does not: asks Nova for servers. Earlier ones ask for flavors only.
ASKS_FOR_SERVERS = hasattr(InstanceDiscovery, "get_server")

PATIENCE = 5.0
"""Seconds of a cycle for requests to Nova's API that fail. What it told of the instances that were
found before is remembered by Ceilometer; they are found all the same."""


def leave_to_nova(conf: cfg.ConfigOpts) -> None:
    """Let discovery ask Nova's API where it would read libvirt's metadata, as it does by default.

    A pool has no libvirt. To be called before the agent makes its discovery objects.
    """
    if conf.compute.instance_discovery_method == "libvirt_metadata":
        InstanceDiscovery.method = "naive"


def activate(native: Inspector) -> None:
    """Let the method ``libvirt_metadata`` of every discovery object read through virtmeter.

    :raises RuntimeError: this Ceilometer has no such method.
    """
    if not callable(getattr(InstanceDiscovery, METHOD, None)):
        message = "this release of Ceilometer discovers its instances otherwise"
        raise RuntimeError(message)

    said: set[str] = set()
    known: set[str] = set()

    def discover(discovery: Any, manager: Any, param: Any = None) -> list[Any]:  # noqa: ARG001
        try:
            return discovered(native, discovery, said, known)
        except Exception as error:  # noqa: BLE001 - the agent would log a traceback
            failure = type(error).__qualname__, str(error)  # the next cycle tries again
        say_once(said, *failure, "no instance is discovered")
        return []

    setattr(InstanceDiscovery, METHOD, discover)


def discovered(native: Inspector, discovery: Any, said: set[str], known: set[str]) -> list[Any]:
    """Return all instances, each as this release's own discovery gives it.

    ``said`` is what was logged of the last cycle, and becomes what is said of this one; ``known``
    are the instances that the last one found, and become those of this one.
    """
    found: list[Any] = []
    left_out = set()
    failure: tuple[str, str] | None = None
    unknown, wasted = 0, 0.0
    servers = native.list_servers()
    for server in servers:
        if server.missing:  # which the inspector has logged
            continue
        is_slow = failure is not None and wasted > PATIENCE
        if is_slow and server.id not in known and asks_nova(discovery, server):
            unknown += 1
            continue
        begun = time.monotonic()
        try:
            found.append(like_nova(discovery, server))
        except (AttributeError, KeyError) as error:
            fault = f"instance {server.id} is left out of discovery: {printable(repr(error))}"
            if fault not in said:
                LOG.error("%s", fault)
            said.add(fault)
            left_out.add(fault)
        except Exception as error:  # noqa: BLE001 - Nova's API, which raises anything
            failure = failure or (type(error).__qualname__, str(error))
            unknown += 1
            wasted += time.monotonic() - begun
    if failure is not None:
        is_or_are = "is" if unknown == 1 else "are"
        some = f"{unknown} of {len(servers)} instances {is_or_are} left out of discovery"
        left_out.add(say_once(said, *failure, some if found else "no instance is discovered"))
    said.intersection_update(left_out)
    known.clear()
    known.update(each.id for each in found)
    return found


def say_once(said: set[str], kind: str, words: str, what: str) -> str:
    """Log it, unless a failure of this kind was; return the kind.

    Other words for the same kind are not told: those of Nova have a request's id, and are always
    new. Not to be called while the exception is handled: oslo.log would add it to the line.
    """
    if kind not in said:
        LOG.warning("%s: %s", what, printable(words))
    said.add(kind)
    return kind


def like_nova(discovery: Any, server: Server) -> Any:
    """Return a server with the attributes that this release's own discovery gives it."""
    host = discovery.conf.host
    flavor_id, metadata = from_nova(discovery, server)
    attributes = {
        "id": server.id,
        "name": server.name,
        "flavor": {**server.flavor, "id": flavor_id},
        "image": None if server.image_id is None else {"id": server.image_id},
        "os_type": server.os_type,
        "architecture": server.architecture,
        "OS-EXT-SRV-ATTR:instance_name": server.domain_name,
        "OS-EXT-SRV-ATTR:host": host,
        "OS-EXT-STS:vm_state": utils.LIBVIRT_POWER_STATE.get(server.state),
        "tenant_id": server.project_id,
        "user_id": server.user_id,
        # As Nova's API makes it.
        "hostId": hashlib.sha224(f"{server.project_id}{host}".encode()).hexdigest(),
        "status": utils.LIBVIRT_STATUS.get(server.state),
        "metadata": metadata,
    }
    if not READS_ALL:
        attributes["flavor"].pop("extra_specs", None)
    elif server.image_meta is not None:
        attributes["image_meta"] = server.image_meta
    return NovaLikeServer(**attributes)


def asks_nova(discovery: Any, server: Server) -> bool:
    """Return whether Nova's API has to be asked about it, once."""
    return fetches(discovery) or not READS_ALL or not server.flavor["id"]


def fetches(discovery: Any) -> bool:
    """Return whether this release asks Nova's API about each server."""
    if READS_ALL:
        return bool(discovery.conf.compute.fetch_extra_metadata)
    return ASKS_FOR_SERVERS


def from_nova(discovery: Any, server: Server) -> tuple[str, Any]:
    """Return flavor id and user's metadata, asking Nova's API just where this release would."""
    name = server.flavor["name"]
    if not ASKS_FOR_SERVERS:
        return discovery.get_flavor_id(name), {}
    found = discovery.get_server(server.id) if fetches(discovery) else None
    metadata = found.metadata if found else {}
    if READS_ALL and server.flavor["id"]:
        return server.flavor["id"], metadata
    if found:
        return found.flavor["id"], metadata
    return (READS_ALL and discovery.get_flavor_id(name)) or name, metadata
