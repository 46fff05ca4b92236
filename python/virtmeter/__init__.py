"""What every virtual machine on a host uses, read from libvirt.

>>> import virtmeter
>>> inspector = virtmeter.LibvirtInspector("test:///default")
>>> for instance in inspector.list_instances():
...     stats = inspector.inspect_instance(instance)
...     print(instance.name, stats.memory_usage, "MiB")
test 1024.0 MiB

Warnings, such as a disk that libvirt refuses to read, go to the logger ``virtmeter``.
"""

import logging

from virtmeter.exceptions import (
    ConnectionLost,
    InspectionTimeout,
    InspectorException,
    InstanceNotFoundException,
    InstanceShutOffException,
    NoDataException,
)
from virtmeter.records import (
    DiskInfo,
    DiskStats,
    Health,
    Instance,
    InstanceStats,
    InterfaceStats,
    PowerState,
    Server,
)

try:
    from virtmeter._native import LibvirtInspector, __version__
except ImportError as _error:
    if "libvirt.so" not in str(_error):
        raise
    raise ImportError(
        f"virtmeter needs the system's libvirt client library ({_error}): install the package "
        "libvirt0 (Debian, Ubuntu) or libvirt-libs (Fedora, RHEL)",
        name=_error.name,
        path=_error.path,
    ) from _error

# Without it, Python prints a library's warnings on stderr where nobody has set logging up.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = [
    "ConnectionLost",
    "DiskInfo",
    "DiskStats",
    "Health",
    "InspectionTimeout",
    "InspectorException",
    "Instance",
    "InstanceNotFoundException",
    "InstanceShutOffException",
    "InstanceStats",
    "InterfaceStats",
    "LibvirtInspector",
    "NoDataException",
    "PowerState",
    "Server",
    "__version__",
]
