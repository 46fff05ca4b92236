"""The entry point: finds the command, and turns what can go wrong into a line and a status."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import NoReturn

import click

import virtmeter

COMMANDS = ("stats", "export", "check", "doctor", "completion")

FAILED = 1
"""Not all is well, or not all could be done: the command has said what. (2 is click's: usage.)"""
UNREACHABLE = 3
"""libvirt cannot be reached."""
INTERRUPTED = 130


class Commands(click.Group):
    """Imports a command's module when it is called, so that none waits for what others need."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command that a module of the same name has."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"virtmeter.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(virtmeter.__version__, message="virtmeter %(version)s")
def commands() -> None:
    r"""See what every virtual machine on this host uses.

    \b
    Exit status: 0 all went well; 1 something did not, and was said;
    2 wrong usage; 3 libvirt cannot be reached; 130 Ctrl-C.
    """


def main() -> NoReturn:
    """Run the command line, and end the process with its status."""
    logging.basicConfig(format="virtmeter: %(message)s", level=logging.WARNING)
    sys.exit(status(commands))


def status(command: click.Command) -> int:
    """Run a command and return its exit status; say on one line what went wrong."""
    try:
        answer = command.main(prog_name="virtmeter", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except virtmeter.ConnectionLost as error:
        click.echo(f"virtmeter: {error}. 'virtmeter doctor' looks for the reason", err=True)
        return UNREACHABLE
    except (virtmeter.InspectorException, ValueError, ImportError) as error:
        click.echo(f"virtmeter: {error}", err=True)
        return FAILED
    except BrokenPipeError:
        # The reader, head say, has seen enough; nothing is left to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return answer if isinstance(answer, int) else 0
