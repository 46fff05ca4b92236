"""``virtmeter stats``."""

from __future__ import annotations

import click

from virtmeter.cli import connection


@click.command()
@connection.connects
def stats(uri: str, timeout: float, workers: int) -> None:
    """Nothing yet."""
    with connection.inspector(uri, timeout, workers) as inspector:
        click.echo(inspector.list_instances())
