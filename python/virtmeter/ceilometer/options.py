"""The options of virtmeter in ceilometer.conf, group ``[virtmeter]``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from oslo_config import cfg

GROUP = "virtmeter"
POOLS = ("xenserver", "vsphere")
"""Schemes of the URIs that name a pool of hosts or a vCenter, and not libvirt."""


def scheme(uri: str) -> str:
    """Return what a URI begins with."""
    return uri.partition("://")[0].lower()


def pool_uri(text: str) -> str:
    """Return a URI that names a pool; what is wrong with the rest of it, the core says.

    :raises ValueError: it does not. It is not shown: somebody may have put a password into it.
    """
    if scheme(text) not in POOLS:
        message = (
            "it does not begin with vsphere:// or xenserver://; write it like "
            "vsphere://USER@HOST/?password_file=FILE, or, if libvirt is meant, set libvirt_uri"
        )
        raise ValueError(message)
    return text


OPTS = [
    cfg.BoolOpt(
        "enabled",
        default=True,
        help="Let virtmeter replace Ceilometer's own libvirt inspector. It reads the same values, "
        "from the libvirt that libvirt_uri and libvirt_type name. If disabled, the agent works as "
        "if virtmeter were not installed.",
    ),
    cfg.Opt(
        "uri",
        type=pool_uri,  # type: ignore[arg-type]  # any callable will do, says its documentation
        # It is not to have a password in it, but somebody may try.
        secret=True,
        help="Read a vCenter or an ESXi host instead of libvirt: "
        "vsphere://USER@HOST/?password_file=FILE&sha256=PIN; or a pool of XenServer or XCP-ng: "
        "xenserver://USER@HOST/?password_file=FILE&sha256=PIN, where HOST is the pool's master. "
        "hypervisor_inspector, libvirt_uri and libvirt_type are ignored then. With vSphere, "
        "instance_discovery_method = libvirt_metadata reads what Nova wrote into the notes of the "
        "VMs; with XenServer, instances are always discovered by Nova's API.",
    ),
    cfg.BoolOpt(
        "additional_meters",
        default=False,
        help="Provide libvirt meters that Ceilometer lacks, such as cpu.delay (steal) and "
        "disk.device.flush.requests; polling.yaml selects which of them are polled. Without this "
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
        "the meantime its state, CPU and NICs, which libvirt knows without it, are reported.",
    ),
    cfg.FloatOpt(
        "max_age",
        min=0,
        max=86400,
        help="Maximum age, in seconds, of a value that was read ahead of a pollster, or together "
        "with what another pollster asked for. 0 turns off both. By default 1 with libvirt, 5 "
        "with XenServer and 20 with vSphere, which have new values only as often.",
    ),
    cfg.IntOpt(
        "workers",
        default=4,
        min=1,
        max=1000,
        help="How many readings are taken at once, each over its own connection. Only with "
        "libvirt.",
    ),
    cfg.IntOpt(
        "read_ahead",
        default=16,
        min=0,
        max=1000,
        help="How many readings are taken ahead of a pollster at most. 0 turns reading ahead off.",
    ),
    cfg.IntOpt(
        "max_stuck",
        default=12,
        min=0,
        max=1000,
        help="How many threads, in addition to workers, may be stuck in calls that do not return: "
        "up to this many guests may hang while all others are still read. Each stuck thread also "
        "occupies one of libvirtd's own workers (max_workers in libvirtd.conf). Only with libvirt.",
    ),
    cfg.BoolOpt(
        "reckon_sizes",
        default=True,
        help="Compute disk.device.capacity, allocation and physical from what is read for other "
        "meters and from the length of the image, instead of asking QEMU again. The first reading "
        "of each disk asks QEMU as well, and so does every fiftieth; a disk whose answer differed "
        "is always asked for, as all are if this is disabled. Only with libvirt.",
    ),
    cfg.BoolOpt(
        "all_vnics",
        default=False,
        help="Also report NICs that libvirt has no name for (SR-IOV, vDPA): network meters have "
        "samples for them by their MAC addresses, with -1 for each counter that libvirt does not "
        "have. Ceilometer's own inspector leaves them out. Only with libvirt.",
    ),
]

# Those of them that the inspectors take as they are.
OF_POOLS = ("timeout", "max_age", "read_ahead")
OF_LIBVIRT = (*OF_POOLS, "workers", "max_stuck", "reckon_sizes", "all_vnics")

# So much of a wrong value is shown.
SHOWN = 40


@dataclass(frozen=True)
class Wrong:
    """Stands in place of a value that an option does not take."""

    why: str


def lenient(opt: cfg.Opt) -> cfg.Opt:
    """Return the option with ``Wrong`` for each value that it does not take.

    oslo would raise wherever anybody looks at it, its own logging of all options included.
    """

    def take(value: Any) -> Any:
        if isinstance(value, Wrong):
            return value
        if opt.secret:
            try:
                return opt.type(value)
            except ValueError as error:
                return Wrong(str(error))
        with suppress(ValueError):
            taken = opt.type(value)
            if taken is not None and taken == taken:  # which NaN is not
                return taken
        return Wrong(f"{str(value)[:SHOWN]!r} is not {wanted(opt)}")

    # As above.
    shown = {"default": opt.default, "secret": opt.secret, "help": opt.help}
    return cfg.Opt(opt.name, type=take, **shown)  # type: ignore[arg-type]


def wanted(opt: cfg.Opt) -> str:
    """Return what values an option takes."""
    if isinstance(opt, cfg.BoolOpt):
        return "true or false"
    kind = "a whole number" if isinstance(opt, cfg.IntOpt) else "a number"
    limits: Any = opt.type
    return f"{kind} from {limits.min} to {limits.max}"


LENIENT = [lenient(opt) for opt in OPTS]


def register(conf: cfg.ConfigOpts) -> None:
    """Make ``conf.virtmeter`` known; a second time does no harm."""
    conf.register_opts(LENIENT, group=GROUP)


def mistakes(conf: cfg.ConfigOpts) -> list[str]:
    """Return a sentence for each option that has a wrong value."""
    register(conf)
    found = []
    for opt in LENIENT:
        try:
            value = conf[GROUP][opt.name]
        except cfg.Error:  # `$something` that is no option, but part of a password, say
            value = Wrong("what follows a $ in it is no option; write $$ where a $ is meant")
            conf.set_override(opt.name, value, group=GROUP)
        if isinstance(value, Wrong):
            found.append(f"[{GROUP}] {opt.name}: {value.why}")
    return found


def check(conf: cfg.ConfigOpts) -> None:
    """Look at all options.

    :raises ValueError: one has a wrong value.
    """
    if found := mistakes(conf):
        raise ValueError("; ".join(found))


def tells_of_nova(conf: cfg.ConfigOpts) -> bool:
    """Return whether the VMs have with them what Nova says of them, so that discovery can read it.

    libvirt's have it in their metadata, and vSphere's in their notes.
    """
    return not conf.virtmeter.uri or scheme(conf.virtmeter.uri) == "vsphere"


def additional_meters(conf: cfg.ConfigOpts) -> bool:
    """Return whether the agent is to have virtmeter's additional meters."""
    if mistakes(conf):
        return False
    return bool(conf.virtmeter.enabled and conf.virtmeter.additional_meters)


def limits(conf: cfg.ConfigOpts) -> dict[str, Any]:
    """Return the arguments for the inspector that say how far it goes.

    :raises ValueError: an option has a wrong value.
    """
    check(conf)
    names = OF_POOLS if conf.virtmeter.uri else OF_LIBVIRT
    given = {name: conf.virtmeter[name] for name in names}
    return {name: value for name, value in given.items() if value is not None}


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the options for ``oslo-config-generator --namespace virtmeter``."""
    return [(GROUP, list(OPTS))]
