"""A simulated vCenter, from the outside of its process."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.vcsim.build import program
from tests.support.vcsim.truth import VM
from tests.support.xapi.certificates import openssl

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from typing_extensions import Self

PASSWORD = "sésame & <öffne> dich"
#: When the clock of a vCenter stands still at first: 2027-01-15 08:00:00.
START = 1_800_000_000.0


class VCenter:
    """A vCenter with `vms` VMs that are on, and more of other kinds, spread over the hosts.

    With `now=None` its clock runs; else it stands still, and `step` moves it. `nova` is how many
    of the VMs are Nova's (of every second, None: all of these). `esxi` is a single ESXi host.

    A VM is named by its reference or name, a host by its number.
    """

    def __init__(
        self,
        hosts: int = 2,
        vms: int = 8,
        *,
        off: int = 0,
        suspended: int = 0,
        templates: int = 0,
        nova: int | None = None,
        esxi: bool = False,
        seed: str = "1",
        now: float | None = START,
        port: int = 0,
    ) -> None:
        self.seed = seed
        self.password = PASSWORD
        self._flags = {
            "hosts": hosts,
            "vms": vms,
            "off": off,
            "suspended": suspended,
            "templates": templates,
            "nova": -1 if nova is None else nova,
            "esxi": str(esxi).lower(),
            "seed": seed,
            "now": now or 0,
            "port": port,
            "password": PASSWORD,
        }

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self._directory = directory
            flags = {**self._flags, **self._make_certificate()}
            self._process = stack.enter_context(
                subprocess.Popen(
                    [program(), *(f"-{name}={value}" for name, value in flags.items())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={"TMPDIR": str(directory)},  # the disks' files
                )
            )
            stack.callback(self._process.kill)
            assert self._process.stdout
            ready = json.loads(self._process.stdout.readline() or '"the server did not start"')
            self.port, self._control = ready["port"], ready["control"]
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._stack.close()

    def _make_certificate(self) -> dict[str, str]:
        made = tempfile.mkdtemp(dir=self._directory)
        self.certificate, key = Path(made, "certificate.pem"), Path(made, "key.pem")
        openssl(
            *("req", "-x509", "-days", "2", "-nodes", "-subj", "/CN=vcenter", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:P-256", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", key, "-out", self.certificate),
        )
        return {"cert": str(self.certificate), "key": str(key)}

    # What a client needs.

    @property
    def sha256(self) -> str:
        """What one pins, as hex digits."""
        pem = self.certificate.read_text()
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()

    @property
    def uri(self) -> str:
        return self.uri_of("monitor")

    def uri_of(self, user: str) -> str:
        """Return the URI for root, monitor, or nobody, who has no rights."""
        return f"vsphere://{user}@127.0.0.1:{self.port}/?sha256={self.sha256}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def control_url(self) -> str:
        return f"http://127.0.0.1:{self._control}"

    def told(self) -> dict[str, Any]:
        """Return all of that for another process."""
        return {
            "uri": self.uri,
            "password": self.password,
            "port": self.port,
            "certificate": str(self.certificate),
        }

    # What a test asks and does.

    def control(self, verb: str, **arguments: Any) -> Any:
        """Do something by the control port: see server/control.go."""
        connection = http.client.HTTPConnection("127.0.0.1", self._control, timeout=60)
        try:
            connection.request("POST", f"/{verb}", json.dumps(arguments))
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(answer)
        return answer

    @property
    def now(self) -> float:
        return float(self.control("clock"))

    def step(self, seconds: float) -> float:
        """Let time pass, and return what it is then. From now on the clock stands still."""
        return float(self.control("clock", step=seconds))

    def vms(self) -> list[VM]:
        """Return all VMs as they are now, in the order of their making."""
        return [VM.of(self.seed, told) for told in self.control("vms")]

    def vm(self, name: str) -> VM:
        """Return a VM as it is now."""
        (found,) = (VM.of(self.seed, told) for told in self.control("vms", vm=name))
        return found

    def hosts(self) -> list[dict[str, Any]]:
        """Return ref, name, uuid, threads and state of all hosts."""
        return list(self.control("hosts"))

    def power_on(self, vm: str) -> None:
        """Power a VM on, or resume it."""
        self.control("power", vm=vm, to="on")

    def power_off(self, vm: str) -> None:
        self.control("power", vm=vm, to="off")

    def suspend(self, vm: str) -> None:
        self.control("power", vm=vm, to="suspended")

    def migrate(self, vm: str, host: int) -> None:
        """Move a VM to a host, which has samples of it from its arrival on."""
        self.control("migrate", vm=vm, host=host)

    def create(self, **shape: Any) -> str:
        """Add a VM, on from now on, and return its reference: see `shape` in inventory.go."""
        return str(self.control("create", **shape))

    def half_clone(self) -> str:
        """Add a VM that is not cloned yet, without config and host, and return its reference."""
        return str(self.control("half_clone"))

    def hide(self, vm: str, *, hidden: bool = True) -> None:
        """Have the configuration of a VM not be told, as while its files cannot be read."""
        self.control("hide", vm=vm, hidden=hidden)

    def forbid(self, vm: str, *, forbidden: bool = True) -> None:
        """Have samples of a VM not be told, for want of a permission."""
        self.control("hide", vm=vm, forbidden=forbidden)

    def delete(self, vm: str) -> None:
        self.control("delete", vm=vm)

    def reconfigure(self, vm: str, **changes: Any) -> None:
        """Change `cpus`, `mib`, `name` or `annotation` of a VM."""
        self.control("reconfigure", vm=vm, **changes)

    def add_nic(self, vm: str) -> str:
        """Plug a NIC, and return its instance."""
        return str(self.control("add_nic", vm=vm))

    def add_disk(self, vm: str) -> str:
        """Plug a disk, and return its instance."""
        return str(self.control("add_disk", vm=vm))

    def remove(self, vm: str, instance: str) -> None:
        """Unplug a NIC or disk."""
        self.control("remove_device", vm=vm, device=instance)

    def fix(
        self,
        vm: str,
        value: int,
        counter: str = "",
        instance: str | None = None,
        times: Iterable[float] | None = None,
        until: float | None = None,
    ) -> None:
        """Have samples of any counter, instance and time, or of one that is given, be a value.

        From the time `until` on, the true values are told. An aggregate is not the sum any more.
        """
        self._spoil(times, vm=vm, value=value, counter=counter, instance=instance, until=until)

    def _spoil(self, times: Iterable[float] | None, **rule: Any) -> None:
        if times is None:
            self.control("spoil", **rule)
        else:
            for time in times:
                self.control("spoil", **rule, **{"from": time, "to": time})

    def missing(
        self,
        vm: str,
        counter: str = "",
        instance: str | None = None,
        times: Iterable[float] | None = None,
        until: float | None = None,
    ) -> None:
        """Have samples be missing, that is -1; see `fix`."""
        self.fix(vm, -1, counter, instance, times, until)

    def gap(self, vm: str, times: Iterable[float], until: float | None = None) -> None:
        """Have there be no samples of a VM at some times, not even missing ones."""
        self._spoil(times, vm=vm, until=until)

    def silent(self, vm: str, counter: str = "", instance: str | None = None) -> None:
        """Have a VM tell no series of a counter or any, and an instance or any (such as SR-IOV)."""
        self.control("spoil", vm=vm, silent=True, counter=counter, instance=instance)

    def late(self, vm: str, seconds: float) -> None:
        """Have the samples of a VM be there only some seconds after their time."""
        self.control("spoil", vm=vm, late=seconds)

    def short(self, vm: str) -> None:
        """Have the series of a VM lack their last value."""
        self.control("spoil", vm=vm, short=True)

    def heal(self, vm: str) -> None:
        """Have the samples of a VM be true and in time again."""
        self.control("heal", vm=vm)

    def sick(self, host: int, seconds: float) -> None:
        """Have each QueryPerf that asks for a VM of the host hang so long; 0 frees them all."""
        self.control("host", host=host, sick=seconds)

    def clock_off(self, host: int, seconds: float) -> None:
        """Have the clock of a host be fast, or slow, and thus the times of its samples."""
        self.control("host", host=host, clock=seconds)

    def connection(self, host: int, state: str) -> None:
        """Have a host be connected, disconnected or notResponding."""
        self.control("host", host=host, state=state)

    def calls(self) -> dict[str, int]:
        """Return how often each method was called."""
        return dict(self.control("calls"))

    def logins(self) -> int:
        return self.calls().get("Login", 0)

    def queries(self) -> list[dict[str, Any]]:
        """Return how many entities and metrics, which max_sample and hosts each QueryPerf had."""
        return list(self.control("queries"))

    def most_in_flight(self) -> int:
        """Return how many calls were answered at once at most."""
        return int(self.control("load")["most"])

    def forget_calls(self) -> None:
        """Count anew."""
        self.control("forget")

    def sessions(self) -> list[dict[str, str]]:
        """Return user, agent and key of the sessions that are open."""
        return list(self.control("sessions"))

    def expire_sessions(self) -> int:
        """End all sessions, and return how many there were."""
        return int(self.control("end_sessions"))

    def idle(self, seconds: float) -> None:
        """Set how long a session may be idle, by the vCenter's clock: 1800 at first."""
        self.control("idle", seconds=seconds)

    def page(self, size: int) -> None:
        """Set how many objects the server tells at once at most; 0 is any number."""
        self.control("page", size=size)

    def limits(self, **limits: Any) -> None:
        """Set limits and habits of QueryPerf: see `perfSettings` in perf.go."""
        self.control("limits", **limits)

    def fail(self, method: str = "", times: int = 1, **fault: Any) -> None:
        """Answer the next calls badly: see `fault` in front.go. `times=0` ends that at once."""
        self.control("fail", method=method, times=times, **fault)

    def style(self, **style: bool) -> None:
        """Set whether answers are compressed (`gzip`, at first true), and whether types have the
        prefix `xsi`, as vCenter's, or another one, as govmomi's (`xsi`, at first false).
        """
        self.control("style", **style)

    def restart(self, seconds: float = 0, *, other_certificate: bool = False) -> None:
        """Go down for some seconds, and end all sessions and connections."""
        certificate = self._make_certificate() if other_certificate else {}
        self.control("restart", seconds=seconds, **certificate)
