"""The entry point: finds the command, and turns what can go wrong into a line and a status."""

from __future__ import annotations

import importlib
import io
import logging
import os
import signal
import sys
import threading
from typing import Any, NoReturn

import click

import virtmeter
from virtmeter.cli.text import printable

COMMANDS = ("stats", "watch", "export", "check", "doctor", "completion")

FAILED = 1
"""Not all is well, or not all could be done: the command has said what. (2 is click's: usage.)"""
UNREACHABLE = 3
"""libvirt cannot be reached."""
INTERRUPTED = 130

HINT = "'virtmeter doctor' looks for the reason"


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

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401
        """Return the command's status; a reader, head say, may have seen enough before its end."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _discard_output()
            return 0


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(virtmeter.__version__, message="virtmeter %(version)s")
def commands() -> None:
    """See what every virtual machine on this host uses.

    \b
    Exit status: 0 all went well; 1 something did not, and was said;
    2 wrong usage; 3 libvirt cannot be reached; 130 Ctrl-C.
    """


def main() -> NoReturn:
    """Run the command line, and end the process with its status."""
    # `<&-` or `>&-`. In this order, each gets its own descriptor, and no other file does.
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, mode))  # noqa: PTH123, SIM115
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("virtmeter: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know all of UTF-8
    ended = status(commands)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if threading.active_count() > 1:
        # They wait for libvirt or check a password, and nobody needs their answers any more.
        # Python would end them on their way back from native code, which aborts the process.
        sys.stderr.flush()
        os._exit(ended)
    sys.exit(ended)


class _OneLine(logging.Formatter):
    """Messages have names of VMs in them, which may have anything in them."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def status(command: click.Command) -> int:
    """Run a command and return its exit status; say on one line what went wrong."""
    try:
        answer = command.main(prog_name="virtmeter", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        vars(error)["message"] = printable(error.message)  # it may cite what was given
        error.show()
        return error.exit_code
    except SystemExit as ended:  # of a signal
        return ended.code if isinstance(ended.code, int) else FAILED
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except virtmeter.ConnectionLost as error:
        # The library goes on trying; a command that has failed does not.
        _say(f"{str(error).removesuffix('; virtmeter goes on trying')}. {HINT}")
        return UNREACHABLE
    except (virtmeter.InspectorException, ValueError, ImportError) as error:
        _say(str(error))
        return FAILED
    except BrokenPipeError:
        _discard_output()
        return 0
    except OSError as error:
        _discard_output()
        _say(str(error))
        return FAILED
    return answer if isinstance(answer, int) else 0


def _discard_output() -> None:
    """Leave nothing to be flushed at exit, which would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str) -> None:
    click.echo(f"virtmeter: {printable(line)}", err=True)
