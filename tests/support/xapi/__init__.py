"""A simulated pool of XenServer or XCP-ng, for the tests.

    with Pool("xapi-24.19_drift", hosts=2) as pool:   # one of SETS
        pool.uri()                         # xenserver://monitor@127.0.0.1:PORT/?sha256=PIN
        pool.now += 60                     # time passes, and what was recorded happens
        pool.vm("A").reboot()              # and what a test wants: see changes.py
        pool.hosts[1].fail(path="/rrd_updates", hang="head")   # see faults.py
        pool.hosts[1].heal()
        pool.sessions.expire()             # see sessions.py
        pool.truth(uuid, "vif_0_rx")       # what a counter really is
        pool.count("event.from"), pool.count("GET /rrd_updates", host=1)

Users are root, monitor (read-only) and nobody (no rights), all with PASSWORD. `synthetic()` is a
pool of any size, and `python -m tests.support.xapi` one in a process of its own. Where answers are
not exactly those of the library is said in recording.py and playback.py.
"""

from tests.support.xapi.faults import Fault
from tests.support.xapi.pool import PASSWORD, Host, Pool
from tests.support.xapi.recording import SETS
from tests.support.xapi.synthetic import synthetic

__all__ = ["PASSWORD", "SETS", "Fault", "Host", "Pool", "synthetic"]
