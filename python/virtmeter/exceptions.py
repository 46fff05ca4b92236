"""What can come instead of a reading.

The names are those of Ceilometer's ``ceilometer.compute.virt.inspector``, and three more: for
what does not answer in time, what is busy, and a hypervisor that cannot be reached. A caller's own
mistake is a ``TypeError`` or a ``ValueError``.
"""

from __future__ import annotations


class InspectorException(Exception):  # noqa: N818 - Ceilometer's names
    """Any failure to read an instance. ``str()`` of it names the instance and says why."""

    instance_id: str | None
    """The UUID of the instance that was asked for; ``None`` where the call was about all."""
    error_code: int | None
    """libvirt's ``virErrorNumber``, for example 42; ``None`` where libvirt refused nothing."""
    error_domain: int | None
    """libvirt's ``virErrorDomain``, for example 10 (QEMU); ``None`` where ``error_code`` is."""

    def __init__(
        self,
        message: str | None = None,
        *,
        instance_id: str | None = None,
        error_code: int | None = None,
        error_domain: int | None = None,
    ) -> None:
        """Keep the details beside the message."""
        super().__init__(message)
        self.instance_id = instance_id
        self.error_code = error_code
        self.error_domain = error_domain

    def __reduce__(self) -> tuple[object, ...]:
        """Copy and pickle with the details, which are not among ``args``."""
        return type(self), self.args, self.__dict__


class InstanceNotFoundException(InspectorException):
    """The hypervisor does not know the instance (``virDomainLookupByUUID`` refused)."""


class InstanceShutOffException(InspectorException):
    """The instance is shut off, and so has no counters."""


class NoDataException(InspectorException):
    """The instance is there, but libvirt refused to read it, or it went away meanwhile."""


class InspectionTimeout(NoDataException):
    """The instance's guest has not answered in time; it is asked again when it answers."""


class InstanceBusyException(NoDataException):
    """The instance is being migrated, saved, dumped or the like, and cannot be asked meanwhile."""


class ConnectionLost(NoDataException):
    """The hypervisor cannot be reached; the inspector goes on trying by itself."""
