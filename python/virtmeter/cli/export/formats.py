"""Which format and encoding of the metrics a client can be given. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST = 32
"""So many of what a client offers are looked at, and of the parameters of each."""

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Format(NamedTuple):
    """Prometheus' text format 0.0.4 or OpenMetrics 1.0.0, as it is or compressed."""

    openmetrics: bool = False
    gzip: bool = False

    @property
    def content_type(self) -> str:
        """What it is called in HTTP."""
        return OPENMETRICS_TYPE if self.openmetrics else TEXT_TYPE


def choose(accept: str, accept_encoding: str) -> Format:
    """Choose by the headers of these names; what makes no sense in them counts for nothing."""
    openmetrics = text = gzip = 0.0
    for name, version, quality in _offers(accept):
        if name == "application/openmetrics-text" and version in ("", "0.0.1", "1.0.0"):
            openmetrics = max(openmetrics, quality)
        elif name == "text/plain" and version in ("", "0.0.4"):
            text = max(text, quality)
    for name, _, quality in _offers(accept_encoding):
        if name == "gzip":
            gzip = max(gzip, quality)
    return Format(openmetrics > 0 and openmetrics >= text, gzip > 0)


def _offers(header: str) -> Iterator[tuple[str, str, float]]:
    """Yield each name with its version and its quality: name;version=1;q=0.5."""
    for offer in header.lower().split(",", MOST)[:MOST]:
        name, *rest = (part.strip() for part in offer.split(";", MOST)[:MOST])
        parameters = dict(part.partition("=")[::2] for part in rest)
        try:
            quality = float(parameters.get("q", "1"))
        except ValueError:
            quality = 0.0
        yield name, parameters.get("version", ""), quality
