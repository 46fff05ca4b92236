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
]


def register(conf: cfg.ConfigOpts) -> None:
    """Make ``conf.virtmeter`` known; a second time does no harm."""
    conf.register_opts(OPTS, group=GROUP)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the options for ``oslo-config-generator --namespace virtmeter``."""
    return [(GROUP, list(OPTS))]
