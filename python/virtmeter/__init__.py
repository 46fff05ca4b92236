"""What every virtual machine uses, read from libvirt, XenServer or vSphere.

>>> import virtmeter
>>> inspector = virtmeter.LibvirtInspector("test:///default")
>>> for instance in inspector.list_instances():
...     stats = inspector.inspect_instance(instance)
...     print(instance.name, stats.memory_usage, "MiB")
test 1024.0 MiB

Warnings, such as a disk that libvirt refuses to read, go to the logger ``virtmeter``.
"""

import logging
from typing import TYPE_CHECKING

from virtmeter import _interpreter
from virtmeter.exceptions import (
    ConnectionLost,
    InspectionTimeout,
    InspectorException,
    InstanceBusyException,
    InstanceNotFoundException,
    InstanceShutOffException,
    NoDataException,
)
from virtmeter.records import (
    DirtyRate,
    DiskDetails,
    DiskInfo,
    DiskRateStats,
    DiskStats,
    Health,
    Host,
    Instance,
    InstanceDetails,
    InstanceStats,
    InterfaceRateStats,
    InterfaceStats,
    IoThreadStats,
    JobStats,
    NicDetails,
    PowerState,
    Server,
    VcpuStats,
    VmUsage,
)

try:
    _interpreter.check()
    from virtmeter._native import Inspector, LibvirtInspector, __version__
except ImportError as _error:
    # Told at the first use, and not now: modules below virtmeter can be imported even where its
    # core cannot be loaded, and one of them has to report that.
    _failure = _error
    if not TYPE_CHECKING:  # it would give a type to whatever name is misspelt

        def __getattr__(name: str) -> str:
            if name == "__version__":
                from importlib import metadata

                return metadata.version(__name__)
            if name not in {"Inspector", "LibvirtInspector"}:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
            what = f"virtmeter's compiled core cannot be loaded ({_failure})"
            if "libvirt.so" in str(_failure):
                what = (
                    f"virtmeter needs the system's libvirt client library ({_failure}): install "
                    "or update the package libvirt0 (Debian, Ubuntu) or libvirt-libs (Fedora, "
                    "RHEL), 6.0 or newer"
                )
            raise ImportError(what, name=_failure.name, path=_failure.path) from _failure


# Without it, Python prints a library's warnings on stderr where nobody has set logging up.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = [
    "ConnectionLost",
    "DirtyRate",
    "DiskDetails",
    "DiskInfo",
    "DiskRateStats",
    "DiskStats",
    "Health",
    "Host",
    "InspectionTimeout",
    "Inspector",
    "InspectorException",
    "Instance",
    "InstanceBusyException",
    "InstanceDetails",
    "InstanceNotFoundException",
    "InstanceShutOffException",
    "InstanceStats",
    "InterfaceRateStats",
    "InterfaceStats",
    "IoThreadStats",
    "JobStats",
    "LibvirtInspector",
    "NicDetails",
    "NoDataException",
    "PowerState",
    "Server",
    "VcpuStats",
    "VmUsage",
    "__version__",
]
