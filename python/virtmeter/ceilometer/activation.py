"""Puts virtmeter in the place of the stock inspector when the agent loads its pollsters.

Why so, and not with an option: from Ceilometer 24 on, ``hypervisor_inspector`` takes no other name
than ``libvirt``, and a second entry point of that name is an error. What every release does is to
load each entry point of ``ceilometer.poll.compute`` before it polls, in no certain order. One of
them is ours, and is this class.

Pollsters that are loaded before it have a stock inspector in their attribute ``inspector``. A data
descriptor of that name on their common base class wins over the attributes of its instances, so
they all get ours, whatever the order. Pollsters that are loaded later would make a stock inspector,
unless they found one in ``_inspector``: there they find ours, and the stock one is not even made.
Those that were to be loaded before it and failed are for ``restoration.py``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ceilometer.compute.pollsters import GenericComputePollster
from ceilometer.polling import plugin_base

import virtmeter
from virtmeter.ceilometer import discovery, inspector, options
from virtmeter.cli.text import printable

if TYPE_CHECKING:
    from oslo_config import cfg

LOG = logging.getLogger(__name__)

# What a pollster gets from Ceilometer is of one of its own modules, with libvirt-python or without.
STOCK = "ceilometer."


class Activation(plugin_base.PollsterBase):  # type: ignore[misc]  # it has no types
    """A pollster that the agent loads, and that has nothing to poll."""

    default_discovery = None

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Activate virtmeter, or say in one line why not; the agent goes on in any case."""
        super().__init__(conf)
        failure = None
        try:
            if is_wanted(conf):
                activate(conf)
        except Exception as error:  # noqa: BLE001 - a mistyped option, say
            failure = printable(str(error))
        if failure is not None:  # said here, or oslo.log would say it a second time
            LOG.error("virtmeter is not active, Ceilometer's own inspector is used: %s", failure)

    def get_samples(self, manager: Any, cache: Any, resources: Any) -> list[Any]:  # noqa: ARG002
        """Return no sample."""
        return []


def is_wanted(conf: cfg.ConfigOpts) -> bool:
    """Return whether this agent's configuration leaves its hypervisor to virtmeter.

    :raises ValueError: an option of ours has a wrong value. Nothing is served then, as nobody knows
        what was meant: ``enabled = flase``, say.
    """
    options.check(conf)
    if not conf.virtmeter.enabled:
        LOG.info("virtmeter is installed, but [virtmeter] enabled is false")
        return False
    # Newer releases take no other name for any hypervisor, so that our own option goes before it.
    if not conf.virtmeter.uri and conf.hypervisor_inspector not in ("libvirt", "virtmeter"):
        # Older releases know other hypervisors, of which virtmeter knows nothing.
        LOG.info("virtmeter leaves hypervisor_inspector=%s alone", conf.hypervisor_inspector)
        return False
    if is_active():
        LOG.debug("virtmeter is active already")
        return False
    return True


def is_active() -> bool:
    """Return whether the compute pollsters of this process use virtmeter."""
    return isinstance(vars(GenericComputePollster).get("inspector"), Inspector)


class Inspector:
    """The data descriptor: our inspector wherever a pollster has the stock one.

    A pollster that has brought an inspector of its own keeps it.
    """

    def __init__(self, serving: inspector.Inspector) -> None:
        """Keep the inspector that serves."""
        self.serving = serving

    def __get__(self, pollster: object, owner: type | None = None) -> Any:
        """Return the inspector that serves this pollster."""
        if pollster is None:
            return self
        own = vars(pollster).get("inspector")
        is_stock = own is None or type(own).__module__.startswith(STOCK)
        return self.serving if is_stock else own

    def __set__(self, pollster: object, own: object) -> None:
        """Note what the pollster would use, which for most is a stock inspector."""
        vars(pollster)["inspector"] = own

    def __delete__(self, pollster: object) -> None:
        """Forget it."""
        vars(pollster).pop("inspector", None)


def activate(conf: cfg.ConfigOpts) -> None:
    """Let all compute pollsters of this process use virtmeter.

    :raises RuntimeError: this Ceilometer keeps its inspector elsewhere.
    :raises ValueError: an option of ours has a wrong value.
    """
    setup = getattr(GenericComputePollster, "setup_environment", None)
    names = getattr(getattr(setup, "__code__", None), "co_names", ())
    if not {"inspector", "_get_inspector"} <= set(names):
        message = "this release of Ceilometer keeps its inspector elsewhere"
        raise RuntimeError(message)

    serving = vars(GenericComputePollster).get("_inspector")
    # There is one where hypervisor_inspector is virtmeter. A second would log in a second time.
    if not isinstance(serving, inspector.Inspector):
        serving = inspector.configured(conf)
    tells_of_nova = options.tells_of_nova(conf)
    if tells_of_nova:
        discovery.activate(serving.native)
    else:
        discovery.leave_to_nova(conf)
    GenericComputePollster._inspector = serving  # noqa: SLF001
    GenericComputePollster.inspector = Inspector(serving)
    # As text, the inspector leaves the URI's password out.
    LOG.info(
        "virtmeter %s serves all compute pollsters%s: %s",
        virtmeter.__version__,
        " and discovery" if tells_of_nova else "",
        serving.native,
    )
