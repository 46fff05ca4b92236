"""The options of virtmeter in ceilometer.conf, group ``[virtmeter]``."""

from __future__ import annotations

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
]


def register(conf: cfg.ConfigOpts) -> None:
    """Make ``conf.virtmeter`` known; a second time does no harm."""
    conf.register_opts(OPTS, group=GROUP)


def additional_meters(conf: cfg.ConfigOpts) -> bool:
    """Return whether the agent is to have virtmeter's additional meters."""
    register(conf)
    wanted: bool = conf.virtmeter.enabled and conf.virtmeter.additional_meters
    return wanted


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the options for ``oslo-config-generator --namespace virtmeter``."""
    return [(GROUP, list(OPTS))]
