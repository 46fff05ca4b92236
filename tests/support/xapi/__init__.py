"""A simulated pool of XenServer or XCP-ng, for the tests."""

from tests.support.xapi.faults import Fault
from tests.support.xapi.pool import PASSWORD, Host, Pool
from tests.support.xapi.recording import SETS
from tests.support.xapi.synthetic import synthetic

__all__ = ["PASSWORD", "SETS", "Fault", "Host", "Pool", "synthetic"]
