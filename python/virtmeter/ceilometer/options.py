"""The options of virtmeter in ceilometer.conf, group ``[virtmeter]``."""

from __future__ import annotations

from typing import Any

from oslo_config import cfg

GROUP = "virtmeter"

OPTS = [
    cfg.BoolOpt(
        "enabled",
        default=True,
        help="Let virtmeter take the place of Ceilometer's own libvirt inspector. It reads the "
        "same values from the libvirt that libvirt_uri and libvirt_type name. When it is disabled, "
        "the agent works as if virtmeter were not installed.",
    ),
    cfg.BoolOpt(
        "additional_meters",
        default=False,
        help="Offer meters of libvirt's that Ceilometer does not have, such as cpu.delay (steal) "
        "and disk.device.flush.requests; polling.yaml says which of them are polled. Without this "
        "option they do not exist, so that a polling.yaml with meters: ['*'] gets what it got "
        "without virtmeter.",
    ),
    cfg.FloatOpt(
        "timeout",
        default=5.0,
        min=0.01,
        max=86400,
        help="Seconds after which a reading that libvirt has not answered is given up. An instance "
        "whose guest does not answer is left alone until libvirt says that it answers again; in "
        "the meantime its state, CPU and NICs are reported, as libvirt knows them without it.",
    ),
    cfg.FloatOpt(
        "max_age",
        default=1.0,
        min=0,
        max=86400,
        help="Seconds for which a value that was read ahead of a pollster may be handed out, and "
        "for which an instance's XML is not read again. 0 for neither.",
    ),
    cfg.IntOpt(
        "workers",
        default=6,
        min=1,
        max=1000,
        help="How many readings are taken at once, each over a connection of its own to libvirt.",
    ),
    cfg.IntOpt(
        "read_ahead",
        default=16,
        min=0,
        max=1000,
        help="How many readings are taken ahead of a pollster at the most. 0 for none.",
    ),
    cfg.IntOpt(
        "max_stuck",
        default=6,
        min=0,
        max=1000,
        help="How many threads more than workers may be stuck in calls that do not return. Each of "
        "them occupies one of libvirtd's own workers as well (max_workers in libvirtd.conf).",
    ),
]

# Those of them that the inspector takes as they are.
LIMITS = ("timeout", "max_age", "workers", "read_ahead", "max_stuck")


def register(conf: cfg.ConfigOpts) -> None:
    """Make ``conf.virtmeter`` known; a second time does no harm."""
    conf.register_opts(OPTS, group=GROUP)


def additional_meters(conf: cfg.ConfigOpts) -> bool:
    """Return whether the agent is to have virtmeter's additional meters."""
    register(conf)
    wanted: bool = conf.virtmeter.enabled and conf.virtmeter.additional_meters
    return wanted


def limits(conf: cfg.ConfigOpts) -> dict[str, Any]:
    """Return the arguments for the inspector that say how far it goes."""
    register(conf)
    return {name: conf.virtmeter[name] for name in LIMITS}


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the options for ``oslo-config-generator --namespace virtmeter``."""
    return [(GROUP, list(OPTS))]
