"""Brings back the pollsters that the agent has dropped because libvirtd was down at its start.

Where libvirt-python is installed, pollsters that are loaded before virtmeter's make a stock
inspector, which connects at once. If that fails, the agent drops them, until it is started again.
When it has loaded all it can, every release of it asks the entry points of
``ceilometer.builder.poll.compute`` for more pollsters. One of them is ours, and is this class.
"""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Any

from ceilometer.compute.pollsters import GenericComputePollster
from ceilometer.polling import plugin_base
from stevedore import ExtensionManager

from virtmeter.ceilometer.activation import is_active

if TYPE_CHECKING:
    from oslo_config import cfg

LOG = logging.getLogger(__name__)


class Restoration(plugin_base.PollsterBase):  # type: ignore[misc]  # it has no types
    """A builder of pollsters, which polls nothing itself."""

    default_discovery = None

    def get_samples(self, manager: Any, cache: Any, resources: Any) -> list[Any]:  # noqa: ARG002
        """Return no sample."""
        return []

    @classmethod
    def build_pollsters(cls, conf: cfg.ConfigOpts) -> list[tuple[str, Any]]:
        """Return the name and a new instance of each pollster that this agent has lost."""
        if not is_active():
            return []
        there = loaded(conf)
        found = ExtensionManager("ceilometer.poll.compute", on_load_failure_callback=ignore)
        restored = []
        for extension in found.extensions:
            pollster = extension.plugin
            if issubclass(pollster, GenericComputePollster) and pollster not in there:
                try:
                    restored.append((extension.name, pollster(conf)))
                except plugin_base.ExtensionLoadError as error:
                    LOG.debug("%s is not restored: %s", extension.name, error.msg)
        if restored:
            LOG.info(
                "virtmeter restored %d pollster(s) that the agent had dropped, as the stock "
                "inspector could not be loaded",
                len(restored),
            )
        return restored


def loaded(conf: cfg.ConfigOpts) -> set[type]:
    """Return the classes of the compute pollsters that the agent has loaded.

    The agent shows its list to nobody. What is left of a pollster that failed has no inspector.
    """
    return {
        type(each)
        for each in gc.get_objects()
        # Not isinstance: it asks objects for their __class__, and some answer with a surprise.
        if issubclass(type(each), GenericComputePollster)
        and vars(each).get("conf") is conf
        and "inspector" in vars(each)
    }


def ignore(*_: Any) -> None:
    """Say nothing of what cannot be imported: the agent has said it."""
