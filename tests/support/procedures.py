"""What a scripted daemon knows of its domains, and how each of libvirt's procedures tells it.

Numbers and layouts are those of libvirt's src/remote/remote_protocol.x.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tests.support import xdr

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tests.support.xdr import TypedValue

VIR_ERR_INTERNAL_ERROR = 1
VIR_ERR_NO_SUPPORT = 3
VIR_ERR_INVALID_CONN = 6
VIR_ERR_INVALID_ARG = 8
VIR_ERR_OPERATION_FAILED = 9
VIR_ERR_SYSTEM_ERROR = 38
VIR_ERR_RPC = 39
VIR_ERR_NO_DOMAIN = 42
VIR_ERR_AUTH_FAILED = 45
VIR_ERR_OPERATION_INVALID = 55
VIR_ERR_OPERATION_TIMEOUT = 68
VIR_ERR_NO_DOMAIN_METADATA = 80
VIR_ERR_OPERATION_UNSUPPORTED = 84
VIR_ERR_AGENT_UNRESPONSIVE = 86
VIR_ERR_ACCESS_DENIED = 88

VIR_FROM_NONE = 0
VIR_FROM_RPC = 7
VIR_FROM_QEMU = 10
VIR_FROM_REMOTE = 13
VIR_FROM_DOMAIN = 20

VIR_DOMAIN_RUNNING = 1
VIR_DOMAIN_PAUSED = 3
VIR_DOMAIN_SHUTOFF = 5
VIR_DOMAIN_PAUSED_USER = 1
VIR_DOMAIN_PAUSED_MIGRATION = 2
VIR_DOMAIN_PAUSED_SAVE = 3
VIR_DOMAIN_PAUSED_DUMP = 4
VIR_DOMAIN_PAUSED_SNAPSHOT = 9
VIR_DOMAIN_PAUSED_STARTING_UP = 11

VIR_DOMAIN_CONTROL_OCCUPIED = 2

AUTH_SASL = 1
SASL_PLAIN = b"\0reader\0s3cret"
"""The login that the daemon takes where a test has AUTH_LIST answer AUTH_SASL."""

BULK = "CONNECT_GET_ALL_DOMAIN_STATS"
NOWAIT = 1 << 29  # VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
# The prefixes of the bulk stats; the group at index n is asked for with bit n of the mask.
STATS_GROUPS = "state cpu balloon vcpu net block perf iothread memory dirtyrate vm".split()  # noqa: SIM905
# Those of them that need the domain's job, as they ask QEMU: cpu, balloon, vcpu, block and so on.
ASK_QEMU = 0b110_1010_1110
# What these tell without it.
KNOWN_WITHOUT_JOB = re.compile(
    r"(state|net|perf|memory)\..*|cpu\.(time|user|system|cache\..*)"
    r"|vcpu\.(current|maximum|\d+\.(state|time|wait|delay))|balloon\.(current|maximum)"
    r"|block\.(count|\d+\.(name|path|backingIndex))"
)

BlockStats = tuple[int, int, int, int, int]
# rx bytes, packets, errs, drop; tx bytes, packets, errs, drop
InterfaceStats = tuple[int, int, int, int, int, int, int, int]


@dataclass
class Disk:
    """What the daemon tells about one disk of a domain; -1 in ``stats`` stands for unknown."""

    stats: BlockStats = (0, 0, 0, 0, 0)  # rd_req, rd_bytes, wr_req, wr_bytes, errs
    flags: dict[str, TypedValue] = field(default_factory=dict)  # blockStatsFlags
    info: tuple[int, int, int] = (0, 0, 0)  # capacity, allocation, physical
    bulk: tuple[int, int, int] | None = None  # the same in the bulk record, if they are there
    path: str | None = None  # of its file, likewise


@dataclass
class Domain:
    """What the daemon tells about one domain."""

    uuid: str  # in lower case, with its dashes
    name: str
    id: int = 1  # -1 when shut off
    state: int = VIR_DOMAIN_RUNNING
    reason: int = 1
    max_memory_kib: int = 1048576
    memory_kib: int = 1048576
    vcpus: int = 1
    cpu_time: int = 0
    xml: str = "<domain type='kvm'/>"
    interfaces: dict[str, InterfaceStats] = field(default_factory=dict)  # by target device
    disks: dict[str, Disk] = field(default_factory=dict)  # by target device
    memory: dict[int, int] = field(default_factory=dict)  # VIR_DOMAIN_MEMORY_STAT_* -> value
    stats: dict[str, TypedValue] = field(default_factory=dict)  # its record in the bulk stats
    # Whether memory, NICs and disks are in that record too, as with QEMU, or only asked for singly.
    bulk: bool = False
    metadata: dict[str, str] = field(default_factory=dict)  # namespace URI -> XML
    # What calls about it wait for: see waits.py.
    locked: bool = False  # somebody has its lock: no call about it returns, and no list of all
    hung: bool = False  # its QEMU does not answer: the call that has the job keeps it
    # Who else has its job: some other call, or an incoming migration, which control info is silent
    # about. (A save, a dump or a snapshot lets others have it.)
    job: Literal["held", "async"] | None = None
    taken: bool = field(default=False, init=False)  # by one of the calls here
    asking: int = field(default=0, init=False)  # calls that have the job or wait for it
    most_asking: int = field(default=0, init=False)  # and the most at any time


@dataclass(eq=False)
class Error(Exception):
    """An error reply; without a message the optional field is absent on the wire."""

    code: int
    domain: int
    message: str | None = "scripted error"
    level: int = 2

    def encode(self) -> bytes:
        """The remote_error structure, its unused fields empty."""
        head = xdr.pack("ii", self.code, self.domain) + xdr.optional(self.message)
        # level; no domain; no str1, str2, str3; int1, int2; no network
        return head + xdr.pack("iIIIIiiI", self.level, 0, 0, 0, 0, 0, 0, 0)


class DomainRef(NamedTuple):
    """How a domain is named on the wire."""

    name: str
    uuid: str
    id: int


Domains = dict[str, Domain]


def _read_uuid(reader: xdr.Reader) -> str:
    digits = reader.opaque(16).hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _read_domain(reader: xdr.Reader) -> DomainRef:
    return DomainRef(reader.string(), _read_uuid(reader), reader.int32())


DECODERS: dict[str, Callable[[xdr.Reader], Any]] = {
    "int": xdr.Reader.int32,
    "uint": xdr.Reader.uint32,
    "string": xdr.Reader.string,
    "optional": xdr.Reader.optional,
    "chars": lambda reader: bytes(reader.uint32() for _ in range(reader.uint32())),
    "uuid": _read_uuid,
    "domain": _read_domain,
    "domains": lambda reader: [_read_domain(reader) for _ in range(reader.uint32())],
}


def no_domain(what: str) -> Error:
    message = f"Domain not found: no domain with matching {what}"
    return Error(VIR_ERR_NO_DOMAIN, VIR_FROM_QEMU, message)


def _invalid_argument(what: str) -> Error:
    return Error(VIR_ERR_INVALID_ARG, VIR_FROM_QEMU, f"invalid argument: {what}")


def _is_active(domain: Domain) -> bool:
    return domain.state != VIR_DOMAIN_SHUTOFF


def _running(domain: Domain) -> Domain:
    if not _is_active(domain):
        message = "Requested operation is not valid: domain is not running"
        raise Error(VIR_ERR_OPERATION_INVALID, VIR_FROM_QEMU, message)
    return domain


def _disk(domain: Domain, path: str) -> Disk:
    disk = domain.disks.get(path)
    if disk is None:
        raise _invalid_argument(f"invalid path: {path}")
    return disk


def _ref(domain: Domain) -> bytes:
    uuid = bytes.fromhex(domain.uuid.replace("-", ""))
    return xdr.string(domain.name) + uuid + xdr.pack("i", domain.id)


def _selected(domains: list[Domain], flags: int) -> list[Domain]:
    """The domains that a listing with these VIR_CONNECT_LIST_DOMAINS_* flags has."""
    states = {VIR_DOMAIN_RUNNING: 16, VIR_DOMAIN_PAUSED: 32, VIR_DOMAIN_SHUTOFF: 64}

    def wanted(domain: Domain) -> bool:
        activity = 1 if _is_active(domain) else 2
        state = states.get(domain.state, 128)
        return bool((not flags & 3 or flags & activity) and (not flags & 240 or flags & state))

    return [domain for domain in domains if wanted(domain)]


def _find(domains: Domains, what: str, matches: Callable[[Domain], bool]) -> bytes:
    domain = next(filter(matches, list(domains.values())), None)
    if domain is None:
        raise no_domain(what)
    return _ref(domain)


def _supports_feature(_domains: Domains, feature: int) -> bytes:
    # string parameters, keepalive, events and the close callback by number
    return xdr.pack("i", feature in {9, 10, 14, 15})


def _lookup_by_uuid(domains: Domains, uuid: str) -> bytes:
    domain = domains.get(uuid)
    if domain is None:
        raise no_domain(f"uuid '{uuid}'")
    return _ref(domain)


def _lookup_by_name(domains: Domains, name: str) -> bytes:
    return _find(domains, f"name '{name}'", lambda domain: domain.name == name)


def _lookup_by_id(domains: Domains, number: int) -> bytes:
    return _find(domains, f"id '{number}'", lambda it: _is_active(it) and it.id == number)


def _list_all_domains(domains: Domains, need_results: int, flags: int) -> bytes:
    chosen = _selected(list(domains.values()), flags)
    return xdr.array(map(_ref, chosen if need_results else ())) + xdr.pack("I", len(chosen))


def _get_info(domain: Domain) -> bytes:
    memory = domain.max_memory_kib, domain.memory_kib
    return xdr.pack("IQQIQ", domain.state, *memory, domain.vcpus, domain.cpu_time)


def _get_state(domain: Domain) -> bytes:
    return xdr.pack("ii", domain.state, domain.reason)


def _get_control_info(domain: Domain) -> bytes:
    _running(domain)
    occupied = domain.job == "held" or domain.taken
    return xdr.pack("IIQ", VIR_DOMAIN_CONTROL_OCCUPIED if occupied else 0, 0, 0)


def _get_xml_desc(domain: Domain) -> bytes:
    return xdr.string(domain.xml)


def _get_job_stats(domain: Domain, _flags: int) -> bytes:
    """No job."""
    _running(domain)
    return xdr.pack("i", 0) + xdr.typed_params({})


def _get_metadata(domain: Domain, _type: int, uri: str | None) -> bytes:
    xml = domain.metadata.get(uri or "")
    if xml is None:
        message = "metadata not found: Requested metadata element is not present"
        raise Error(VIR_ERR_NO_DOMAIN_METADATA, VIR_FROM_DOMAIN, message)
    return xdr.string(xml)


def _interface_stats(domain: Domain, path: str) -> bytes:
    stats = _running(domain).interfaces.get(path)
    if stats is None:
        raise _invalid_argument(f"invalid path, '{path}' is not a known interface")
    return xdr.pack("8q", *stats)


def _block_stats(domain: Domain, path: str) -> bytes:
    return xdr.pack("5q", *_disk(_running(domain), path).stats)


def _block_stats_flags(domain: Domain, path: str, nparams: int) -> bytes:
    params = list(_disk(_running(domain), path).flags.items())
    count = min(nparams, len(params)) if nparams else len(params)  # 0 asks how many there are
    return xdr.typed_params(dict(params[:nparams])) + xdr.pack("i", count)


def _get_block_info(domain: Domain, path: str) -> bytes:
    capacity, allocation, physical = _disk(domain, path).info
    return xdr.pack("QQQ", allocation, capacity, physical)


def _memory_stats(domain: Domain, max_stats: int) -> bytes:
    stats = list(_running(domain).memory.items())[:max_stats]
    return xdr.array(xdr.pack("iQ", tag, value) for tag, value in stats)


MEMORY_NAMES = (
    *("swap_in", "swap_out", "major_fault", "minor_fault", "unused", "available", "current"),
    *("rss", "usable", "last-update", "disk_caches", "hugetlb_pgalloc", "hugetlb_pgfail"),
)
_NET_PARTS = [f"{way}.{what}" for way in ("rx", "tx") for what in ("bytes", "pkts", "errs", "drop")]
_BLOCK_PARTS = ("rd.reqs", "rd.bytes", "wr.reqs", "wr.bytes", "errors")
_BLOCK_SIZES = ("capacity", "allocation", "physical")
_BLOCK_FLAGS = {
    "rd_total_times": "rd.times",
    "wr_total_times": "wr.times",
    "flush_operations": "fl.reqs",
    "flush_total_times": "fl.times",
}


def _bulk_stats(domain: Domain) -> dict[str, TypedValue]:
    """Everything in the bulk record of a domain; what stands for unknown is left out."""
    state = {"state.state": xdr.Int(domain.state), "state.reason": xdr.Int(domain.reason)}
    stats: dict[str, TypedValue] = {**state, **domain.stats}
    if not domain.bulk:
        return stats
    stats["balloon.current"] = domain.memory_kib
    stats["balloon.maximum"] = domain.max_memory_kib
    if not _is_active(domain):
        return stats
    stats |= {f"balloon.{MEMORY_NAMES[tag]}": value for tag, value in domain.memory.items()}
    stats["net.count"] = xdr.UInt(len(re.findall("<interface[ >]", domain.xml)))
    # Those that are asked for by their MAC addresses have no name on the host, and are left out.
    named = [(name, nic) for name, nic in domain.interfaces.items() if ":" not in name]
    for index, (name, nic) in enumerate(named):
        stats[f"net.{index}.name"] = xdr.String(name)
        counted = {part: value for part, value in zip(_NET_PARTS, nic) if value >= 0}
        stats |= {f"net.{index}.{part}": value for part, value in counted.items()}
    stats["block.count"] = xdr.UInt(len(domain.disks))
    for index, (name, disk) in enumerate(domain.disks.items()):
        stats[f"block.{index}.name"] = xdr.String(name)
        if disk.path is not None:
            stats[f"block.{index}.path"] = xdr.String(disk.path)
        sizes = zip(_BLOCK_SIZES, disk.bulk or disk.info)
        stats |= {f"block.{index}.{part}": size for part, size in sizes}
        counted = {part: value for part, value in zip(_BLOCK_PARTS, disk.stats) if value >= 0}
        stats |= {f"block.{index}.{part}": value for part, value in counted.items()}
        stats |= {
            f"block.{index}.{_BLOCK_FLAGS[flag]}": value
            for flag, value in disk.flags.items()
            if flag in _BLOCK_FLAGS
        }
    return stats


def _all_domain_stats(
    domains: Domains,
    job: Callable[[Domain, bool], AbstractContextManager[bool]],
    refs: list[DomainRef],
    stats: int,
    flags: int,
) -> bytes:
    chosen = list(domains.values())
    if refs:
        chosen = [domain for ref in refs if (domain := domains.get(ref.uuid))]
    groups = tuple(f"{name}." for bit, name in enumerate(STATS_GROUPS) if stats >> bit & 1)

    def record(domain: Domain) -> bytes:
        if stats and not stats & ASK_QEMU:
            return told(domain, has_job=True)
        with job(domain, not flags & NOWAIT) as has_job:
            return told(domain, has_job=has_job)

    def told(domain: Domain, *, has_job: bool) -> bytes:
        params = list(_bulk_stats(domain).items())
        if not has_job:
            params = [(name, value) for name, value in params if KNOWN_WITHOUT_JOB.fullmatch(name)]
        asked = {name: value for name, value in params if not stats or name.startswith(groups)}
        return _ref(domain) + xdr.typed_params(asked)

    return xdr.array(map(record, _selected(chosen, flags)))


def _sasl_start(_domains: object, mechanism: str, _nil: int, data: bytes) -> bytes:
    """The server's side of SASL's PLAIN: no data, and that it is complete."""
    if (mechanism, data) != ("PLAIN", SASL_PLAIN):
        raise Error(VIR_ERR_AUTH_FAILED, VIR_FROM_RPC, "authentication failed")
    return xdr.pack("iiI", 1, 1, 0)


class Procedure(NamedTuple):
    """A procedure: its name, the types of those arguments that matter, and what answers it.

    That is called with all domains and the arguments; where the first argument is a domain, with
    the domain as it is now and the other arguments. The bulk reading takes the job of each domain
    by itself, and is given the way to it.
    """

    name: str
    arguments: str
    serve: Callable[..., bytes]


def _constant(name: str, payload: bytes = b"") -> Procedure:
    return Procedure(name, "", lambda _domains: payload)


_CAPABILITIES = "<capabilities><host><cpu><arch>x86_64</arch></cpu></host></capabilities>"
# model; memory in KiB; cpus, MHz, nodes, sockets, cores, threads
_NODE = xdr.pack("32i", *b"x86_64".ljust(32, b"\0")) + xdr.pack("Q6i", 1 << 24, 8, 2400, 1, 1, 8, 1)

PROCEDURES = {
    1: Procedure("CONNECT_OPEN", "optional uint", lambda *_: b""),
    2: _constant("CONNECT_CLOSE"),
    3: _constant("CONNECT_GET_TYPE", xdr.string("QEMU")),
    4: _constant("CONNECT_GET_VERSION", xdr.pack("Q", 7_002_000)),
    6: _constant("NODE_GET_INFO", _NODE),
    7: _constant("CONNECT_GET_CAPABILITIES", xdr.string(_CAPABILITIES)),
    14: Procedure("DOMAIN_GET_XML_DESC", "domain", _get_xml_desc),
    16: Procedure("DOMAIN_GET_INFO", "domain", _get_info),
    22: Procedure("DOMAIN_LOOKUP_BY_ID", "int", _lookup_by_id),
    23: Procedure("DOMAIN_LOOKUP_BY_NAME", "string", _lookup_by_name),
    24: Procedure("DOMAIN_LOOKUP_BY_UUID", "uuid", _lookup_by_uuid),
    59: _constant("CONNECT_GET_HOSTNAME", xdr.string("compute.example")),
    60: Procedure("CONNECT_SUPPORTS_FEATURE", "int", _supports_feature),
    64: Procedure("DOMAIN_BLOCK_STATS", "domain string", _block_stats),
    65: Procedure("DOMAIN_INTERFACE_STATS", "domain string", _interface_stats),
    66: _constant("AUTH_LIST", xdr.array([xdr.pack("i", 0)])),
    67: _constant("AUTH_SASL_INIT", xdr.string("PLAIN")),
    68: Procedure("AUTH_SASL_START", "string int chars", _sasl_start),
    110: _constant("CONNECT_GET_URI", xdr.string("qemu:///system")),
    157: _constant("CONNECT_GET_LIB_VERSION", xdr.pack("Q", 9_000_000)),
    159: Procedure("DOMAIN_MEMORY_STATS", "domain uint", _memory_stats),
    194: Procedure("DOMAIN_GET_BLOCK_INFO", "domain string", _get_block_info),
    212: Procedure("DOMAIN_GET_STATE", "domain", _get_state),
    229: Procedure("DOMAIN_GET_CONTROL_INFO", "domain", _get_control_info),
    243: Procedure("DOMAIN_BLOCK_STATS_FLAGS", "domain string int", _block_stats_flags),
    265: Procedure("DOMAIN_GET_METADATA", "domain int optional", _get_metadata),
    273: Procedure("CONNECT_LIST_ALL_DOMAINS", "int uint", _list_all_domains),
    298: Procedure("DOMAIN_GET_JOB_STATS", "domain uint", _get_job_stats),
    344: Procedure(BULK, "domains uint uint", _all_domain_stats),
    360: _constant("CONNECT_REGISTER_CLOSE_CALLBACK"),
    361: _constant("CONNECT_UNREGISTER_CLOSE_CALLBACK"),
}
