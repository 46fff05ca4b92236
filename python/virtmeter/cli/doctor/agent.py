"""Whether Ceilometer is in this environment, and whether virtmeter serves it."""

from __future__ import annotations

import logging
import re
import socket
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

import virtmeter
from virtmeter.cli import kinds
from virtmeter.cli.doctor.finding import OK, PROBLEM, WARNING, Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from oslo_config import cfg

PROGRAM = "ceilometer-polling"
"""The agent, which has configuration files of its own beside those of all Ceilometer."""


class Configuration(NamedTuple):
    """What decides who reads which hypervisor."""

    mistakes: list[str]
    """In ``[virtmeter]``; without one, the rest is known."""
    refused: str = ""
    """An option with a value with which this release's agent does not start."""
    enabled: bool = True
    uri: str = ""
    """Of what is read instead of libvirt."""
    inspector: str = ""
    """``hypervisor_inspector``, which means nothing if there is a URI."""


def agent(checked: Collection[str]) -> Iterator[Finding]:
    """Say what a compute agent that is started from here would do.

    :param checked: the URIs of the hypervisors that doctor looks at.
    """
    # What oslo.config says of deprecated options is for the agent's log.
    logging.getLogger("oslo_config").setLevel(logging.CRITICAL)
    try:
        version = metadata.version("ceilometer")
    except metadata.PackageNotFoundError:
        yield Finding(OK, "Ceilometer is not installed in this environment")
        return
    ceilometer = f"Ceilometer {version}"
    registered = {point.name for point in metadata.distribution("virtmeter").entry_points}
    if "virtmeter" not in registered:
        yield Finding(
            WARNING,
            f"{ceilometer} does not find virtmeter, whose entry points are missing",
            "install virtmeter's wheel with pip, in the environment of the agent",
        )
        return
    try:
        found = configuration()
    except Exception as error:  # noqa: BLE001 - of oslo.config, or of what is not installed
        yield Finding(
            WARNING,
            f"the configuration of {ceilometer} cannot be read: {why(error)}",
            "run 'virtmeter doctor' as a user who may read it, or correct it",
        )
        return
    if found.refused:
        yield Finding(
            PROBLEM,
            f"{ceilometer} does not start: its configuration has a {found.refused} that it does "
            "not know",
            "remove it, and start the agent: virtmeter needs no hypervisor_inspector, and no "
            "libvirt_type where libvirt_uri is set",
        )
    elif found.mistakes:
        yield Finding(
            WARNING,
            f"{ceilometer} uses its own inspector: {'; '.join(found.mistakes)}",
            "correct it in ceilometer.conf, and restart the agent",
        )
    elif not found.enabled:
        yield Finding(
            WARNING,
            f"{ceilometer} uses its own inspector: [virtmeter] enabled is false",
            "set it to true, or remove it, and restart the agent",
        )
    elif not found.uri and found.inspector not in ("libvirt", "virtmeter"):
        yield Finding(OK, f"{ceilometer} reads another hypervisor: {found.inspector}")
    else:
        yield Finding(
            OK,
            f"{ceilometer} reads {kinds.name(found.uri)} through virtmeter",
            "'virtmeter doctor --uri' with the URI in [virtmeter] checks that; the agent needs no "
            "libvirt daemon"
            if found.uri and found.uri not in checked
            else "",
        )
    yield from same_host()


def same_host() -> Iterator[Finding]:
    """Compare what Ceilometer calls this host with what Nova does, where Nova is configured."""
    try:
        nova = host("nova", "nova-compute")
        if nova is None:
            return
        ceilometer = host("ceilometer", PROGRAM) or socket.gethostname()
    except Exception as error:  # noqa: BLE001 - of oslo.config, whatever is in these files
        yield Finding(
            WARNING,
            f"the hosts of ceilometer.conf and nova.conf cannot be compared: {why(error)}",
            "run 'virtmeter doctor' as a user who may read both, and check their 'host'",
        )
        return
    if ceilometer == nova:
        yield Finding(OK, f"Ceilometer and Nova both call this host {nova}")
    else:
        yield Finding(
            WARNING,
            f"Ceilometer calls this host {ceilometer}, Nova calls it {nova}: discovery by Nova's "
            "API finds no instances of it, and the host ids in samples are not Nova's",
            f"set 'host = {nova}' in [DEFAULT] of ceilometer.conf, and restart the agent",
        )


def why(error: Exception) -> str:
    """Return what keeps configuration files from being read, but no line of them.

    oslo.config quotes what it does not understand, and there may be a password in that.
    """
    if isinstance(error, ImportError):
        return str(error)
    place = re.search(r"\bat (/.+?:\d+), ", str(error))
    return type(error).__name__ + (f" at {place[1]}" if place else "")


def host(project: str, program: str) -> str | None:
    """Return ``host`` as a service has it, its default being the host's name; None: no files."""
    from oslo_config import cfg

    files = cfg.find_config_files(project, program)
    directories = cfg.find_config_dirs(project, program)
    if not files and not directories:
        return None
    conf = cfg.ConfigOpts()
    conf.register_opt(cfg.StrOpt("host", default=socket.gethostname()))
    conf([], project, program, default_config_files=files, default_config_dirs=directories)
    name: str = conf.host
    return name


def is_refused(conf: cfg.ConfigOpts, option: str) -> bool:
    """Return whether an option has a value that is none of those that it takes."""
    from oslo_config import cfg

    try:
        _ = conf[option]
    except cfg.ConfigFileValueError:
        return True
    except cfg.Error:  # `$something` that is no option, in one that may mean nothing
        return False
    return False


def configuration() -> Configuration:
    """Return what the agent is told."""
    from ceilometer.compute.virt import inspector
    from ceilometer.compute.virt.libvirt import utils
    from oslo_config import cfg

    from virtmeter.ceilometer import options

    conf = cfg.ConfigOpts()
    opts = [*inspector.OPTS, *utils.OPTS]
    conf.register_opts(opts)
    options.register(conf)
    conf([], project="ceilometer", prog=PROGRAM)
    for opt in opts:
        if is_refused(conf, opt.name):
            return Configuration([], opt.name)
    if mistakes := options.mistakes(conf):
        return Configuration(mistakes)
    if not conf.virtmeter.enabled:
        return Configuration([], enabled=False)
    if not (uri := conf.virtmeter.uri):
        return Configuration([], inspector=conf.hypervisor_inspector)
    try:
        virtmeter.Inspector(uri)  # which connects to nothing yet, and says what is wrong with a URI
    except (ValueError, ImportError) as error:
        return Configuration([str(error)])
    return Configuration([], uri=uri)
