"""The entry point: finds the command, and turns what can go wrong into a line and a status."""

from __future__ import annotations

import importlib
import io
import logging
import os
import re
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

import virtmeter
from virtmeter.cli import about, ending
from virtmeter.cli.starting import INTERRUPTED, UNREACHABLE, interruptible, lacking
from virtmeter.cli.text import discard, printable, say

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS = ("stats", "watch", "export", "check", "doctor", "completion")

FAILED = 1
"""Not all is well, or not all could be done: the command has said what. (2 is click's: usage.)"""

SIZE, NUMBER = re.compile("[1-9][0-9]{0,3}"), re.compile("[0-9]{1,6}")
"""Of a terminal, in columns or lines; of a word that is being typed."""
COMPLETE = "_VIRTMETER_COMPLETE"
"""With this, a shell asks how a command goes on."""
SHELLS = ("bash", "zsh", "fish")
"""Those that can."""

NO_THREAD = "can't start new thread"
"""What Python says when the process may have no more."""

HINT = "Run 'virtmeter doctor' with the same --uri to find out why"


class Commands(click.Group):
    """Imports a command's module when it is called, so that none waits for what others need."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command that the folder of the same name has."""
        if cmd_name not in COMMANDS:
            return None
        with interruptible():
            command = getattr(
                importlib.import_module(f"virtmeter.cli.{cmd_name}.command"), cmd_name
            )
        assert isinstance(command, click.Command)
        return command

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:  # noqa: ANN401
        """Print the help, if that is wanted; a reader, head say, may have seen enough of it."""
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError:
            discard(sys.stdout)
            raise click.exceptions.Exit from None

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401
        """Return the command's status; a reader may have seen enough before its end."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            discard(sys.stdout)
            return 0


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(virtmeter.__version__, message="virtmeter %(version)s")
@click.pass_context
def commands(context: click.Context) -> None:
    """Show what every virtual machine on this host, a XenServer pool or a vCenter uses.

    \b
    Exit status: 0 success; 1 something failed, and a message says what;
    2 usage error; 3 the hypervisor cannot be reached; 130 Ctrl-C.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        context.color = False  # click itself asks for neither


def main() -> NoReturn:
    """Run the command line, and end the process with its status."""
    # `<&-` or `>&-`. In this order, each gets its own descriptor, and no other file does.
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:
            nowhere = open(os.devnull, mode, errors="backslashreplace")  # noqa: PTH123, SIM115
            setattr(sys, stream, nowhere)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            ending.on(number, 128 + number)
    for variable in _wrong_variables():
        del os.environ[variable]
    os.environ.setdefault("LIBVIRT_AUTOSTART", "0")  # who looks for VMs starts no daemon for them
    logging.basicConfig(handlers=[_Said()], level=logging.WARNING)
    _write_completely()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know all of UTF-8
    ended = status(commands)
    ending.begin()
    # Not by Python's own way: threads may wait for a hypervisor or check a password, whose answers
    # nobody needs any more, and it would end them on their way back from native code, which aborts
    # the process. Nor does it look after signals then.
    for output in (sys.stdout, sys.stderr):
        with suppress(OSError):
            output.flush()
    os._exit(ended)


def _write_completely() -> None:
    """Lose nothing that a write leaves over, as where a file system is full.

    With PYTHONUNBUFFERED, Python would not even notice.
    """
    raw = getattr(sys.stdout, "buffer", None)
    if isinstance(raw, io.RawIOBase):
        buffer = io.BufferedWriter(raw)
        sys.stdout = io.TextIOWrapper(buffer, sys.stdout.encoding, line_buffering=True)


def _wrong_variables() -> Iterator[str]:
    """Yield those that are set to what makes no sense: the libraries that read them trust them."""
    for variable in ("COLUMNS", "LINES"):
        if not SIZE.fullmatch(os.environ.get(variable, "1")):
            yield variable
    if COMPLETE in os.environ and not _asks_to_complete():
        yield COMPLETE


def _asks_to_complete() -> bool:
    """Return whether one of click's shells asks for its script, or for how these words go on."""
    shell, _, what = os.environ[COMPLETE].partition("_")
    if shell not in SHELLS or what != "complete":
        return shell in SHELLS and what == "source"
    word = os.environ.get("COMP_CWORD", " ")  # the word itself, or its number
    is_one = not word or not word.isspace() if shell == "fish" else NUMBER.fullmatch(word)
    return "COMP_WORDS" in os.environ and bool(is_one)


class _Said(logging.Handler):
    """What is logged is said."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(MemoryError):  # the thread that writes the exporter's log goes on
            say(about.line(record))


def status(command: click.Command) -> int:
    """Run a command and return its exit status; say on one line what went wrong."""
    try:
        answer = command.main(prog_name="virtmeter", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        vars(error)["message"] = printable(error.message)  # it may cite what was given
        try:
            error.show()
        except OSError:
            discard(sys.stderr)
        return error.exit_code
    except SystemExit as ended:  # of a signal, or of rich where nobody reads any more
        if isinstance(ended.__context__, BrokenPipeError):
            discard(sys.stdout)
            return 0
        return ended.code if isinstance(ended.code, int) else FAILED
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except virtmeter.ConnectionLost as error:
        say(f"{error}. {HINT}")
        return UNREACHABLE
    except ModuleNotFoundError as error:
        say(lacking(error))
        return FAILED
    except (virtmeter.InspectorException, ValueError, ImportError) as error:
        say(str(error))
        return FAILED
    except OSError as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # click could not write that it ends
            discard(sys.stderr)
            return INTERRUPTED
        discard(sys.stdout)
        if isinstance(error, BrokenPipeError):
            return 0
        say(str(error))
        return FAILED
    except MemoryError:
        say("out of memory: check the limits (ulimit -v)")
        return FAILED
    except Exception as error:  # noqa: BLE001 - a traceback is of use to nobody who reads it here
        if isinstance(error, RuntimeError) and str(error) == NO_THREAD:
            say("cannot start a thread: check the limits (ulimit -u, TasksMax)")
            return FAILED
        say(f"{fault(error)}. This may be a bug in virtmeter: please report it")
        return FAILED
    return answer if isinstance(answer, int) else 0


def fault(error: Exception) -> str:
    """Return what is wrong, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} in {where}: {error}"
