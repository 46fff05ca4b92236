"""Whether Ceilometer is in this environment, and whether virtmeter serves it."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from virtmeter.cli.doctor.finding import OK, WARNING, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator


def agent() -> Iterator[Finding]:
    """Say what a compute agent that is started from here would do."""
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
        enabled, inspector, mistakes = configuration()
    except Exception as error:  # noqa: BLE001 - of oslo.config, or of what is not installed
        yield Finding(
            WARNING,
            f"the configuration of {ceilometer} cannot be read: {error}",
            "run 'virtmeter doctor' as a user who may, or mend it",
        )
        return
    if mistakes:
        yield Finding(
            WARNING,
            f"{ceilometer} uses its own inspector: {'; '.join(mistakes)}",
            "mend it in ceilometer.conf, and restart the agent",
        )
    elif not enabled:
        yield Finding(
            WARNING,
            f"{ceilometer} uses its own inspector: [virtmeter] enabled is false",
            "set it to true, or leave it out, and restart the agent",
        )
    elif inspector not in ("libvirt", "virtmeter"):
        yield Finding(OK, f"{ceilometer} reads another hypervisor: {inspector}")
    else:
        yield Finding(OK, f"{ceilometer} reads libvirt through virtmeter")


def configuration() -> tuple[bool, str, list[str]]:
    """Return ``[virtmeter] enabled``, ``hypervisor_inspector``, and what is wrong in the former."""
    from ceilometer.compute.virt import inspector
    from oslo_config import cfg

    from virtmeter.ceilometer import options

    conf = cfg.ConfigOpts()
    conf.register_opts(inspector.OPTS)
    options.register(conf)
    conf([], project="ceilometer")
    return conf.virtmeter.enabled, conf.hypervisor_inspector, options.mistakes(conf)
