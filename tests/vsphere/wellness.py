"""Whether a vCenter is read as it should be, and what it says where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import virtmeter

if TYPE_CHECKING:
    from tests.support.vcsim import VM, VCenter
    from virtmeter import Inspector, VmUsage

ALL = 8  # VMs of the fixture that are on, half of them on each host

ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
    "<soapenv:Body>{}</soapenv:Body></soapenv:Envelope>"
)


def usages(inspector: Inspector) -> dict[str, VmUsage]:
    return {usage.id: usage for usage in inspector.usage_all()}


def count(inspector: Inspector) -> int:
    try:
        return len(inspector.usage_all())
    except virtmeter.ConnectionLost:
        return 0


def is_well(inspector: Inspector, vms: int = ALL) -> bool:
    """Say whether all VMs are read."""
    health = inspector.health
    return count(inspector) == vms and not health().away and not health().outage


def untold(inspector: Inspector, vcenter: VCenter) -> tuple[VM, VM]:
    """Return a VM that was configured otherwise, and a new one: neither tells its configuration."""
    known = vcenter.vms()[0]
    vcenter.reconfigure(known.ref, annotation="It is configured otherwise.")
    new = vcenter.vm(vcenter.create(host=0))
    inspector.list_instances()
    for vm in (known, new):
        vcenter.hide(vm.ref)
    return known, new


def soap_fault(kind: str, text: str = "", inside: str = "") -> str:
    """Return the body of a fault, as vCenter writes it."""
    return ENVELOPE.format(
        f"<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{text}</faultstring>"
        f'<detail><{kind}Fault xmlns="urn:vim25" xsi:type="{kind}">{inside}</{kind}Fault></detail>'
        "</soapenv:Fault>"
    )
