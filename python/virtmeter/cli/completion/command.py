"""The command itself: its options, and its way through the parts beside it."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from virtmeter.cli.main import COMPLETE, SHELLS


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a shell script that completes commands and options.

    \b
    Examples:
      virtmeter completion bash > /etc/bash_completion.d/virtmeter
      virtmeter completion zsh > "${fpath[1]}/_virtmeter"
      virtmeter completion fish > ~/.config/fish/completions/virtmeter.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = context.find_root().command
    click.echo(kind(root, {}, "virtmeter", COMPLETE).source())
