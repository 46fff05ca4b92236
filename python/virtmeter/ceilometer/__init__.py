"""virtmeter in OpenStack Ceilometer's compute agent.

Only the modules of this package import ceilometer and oslo; ``import virtmeter`` does not.
"""

from virtmeter.ceilometer.inspector import LibvirtInspector

__all__ = ["LibvirtInspector"]
