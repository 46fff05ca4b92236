"""What goes wrong is a line and a status, and never a traceback."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

import virtmeter
from tests.support import cli, sample
from tests.support.libvirtd import Never
from virtmeter.cli.main import COMMANDS, commands, status
from virtmeter.cli.text import printable, say

if TYPE_CHECKING:
    from tests.support.libvirtd import Daemon

READERS = ("stats", "watch")


@pytest.mark.parametrize("command", READERS)
def test_an_unreachable_libvirt_is_told_once(tmp_path: Path, command: str) -> None:
    done = cli.run(command, "--uri", f"qemu+unix:///system?socket={tmp_path}/nobody")
    [line] = done.stderr.splitlines()
    assert line.startswith("virtmeter: no connection to qemu+unix:///system?socket=")
    assert "keeps trying" not in line
    assert line.endswith("Run 'virtmeter doctor' with the same --uri to find out why")
    assert (done.returncode, done.stdout) == (3, "")


@pytest.mark.parametrize("command", READERS)
def test_a_libvirt_that_says_nothing_is_told_in_time(daemon: Daemon, command: str) -> None:
    for procedure in ("CONNECT_GET_ALL_DOMAIN_STATS", "DOMAIN_LOOKUP_BY_UUID"):
        daemon.on(procedure, Never(), repeat=True)
    done = cli.run(command, "--uri", daemon.uri, "--timeout", "3")
    [line] = done.stderr.splitlines()
    assert "libvirt has not answered for 1.5s" in line
    assert done.returncode == 3


@pytest.mark.parametrize("command", READERS)
def test_a_list_that_does_not_come_is_no_silence(daemon: Daemon, command: str) -> None:
    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", Never(), repeat=True)
    done = cli.run(command, "--uri", daemon.uri, "--timeout", "3")
    [line] = done.stderr.splitlines()
    assert "listing the instances of " in line
    assert "hangs: no answer within 3s" in line
    assert done.returncode == 1


@pytest.mark.parametrize("command", READERS)
def test_a_uri_that_names_nothing(command: str) -> None:
    done = cli.run(command, "--uri", "nothing-like-it:///")
    [line] = done.stderr.splitlines()
    assert line.startswith("virtmeter: libvirt cannot open the URI")
    assert done.returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("stats", "--format", "xml"),
        ("stats", "--timeout", "0"),
        ("stats", "--timeout", "nan"),
        ("stats", "--workers", "0"),
        ("stats", "--workers", "1001"),
        ("watch", "--workers", "9" * 20),
        ("stats", "--workers", "9" * 5000),
        ("check", "--timeout", "1e999"),
        ("doctor", "--sample", "-1"),
        ("doctor", "--uri", "qemu:///\udcff"),
        ("stats", "--no-such\x1b[2J\noption"),
        ("watch", "--interval", "0"),
        ("watch", "--interval", "inf"),
        ("watch", "--interval", "nan"),
        ("watch", "--count", "0"),
        ("export", "--deadline", "inf"),
        ("export", "--listen", "*1:1"),
        ("export", "--once", "--output", ""),
        ("export", "--once", "--output", "no-such-file/"),
    ],
    ids=lambda arguments: printable(" ".join(arguments))[:40],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    done = cli.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert done.stderr.replace("\n", "").isprintable()


@pytest.mark.parametrize("number", ["²", "9" * 5000, "-1", "x", "0"])
@pytest.mark.parametrize("variable", ["COLUMNS", "LINES"])
def test_a_size_of_the_terminal_that_is_none(variable: str, number: str) -> None:
    for command in (("stats",), ("watch", "--count", "1")):
        done = cli.run(*command, "--uri", "test:///default", **{variable: number})
        assert (done.returncode, done.stderr) == (0, "")
        assert "test" in done.stdout


@pytest.mark.parametrize(
    "environment",
    [
        {"_VIRTMETER_COMPLETE": "bash_complete"},
        {"_VIRTMETER_COMPLETE": "bash_complete", "COMP_WORDS": "virtmeter", "COMP_CWORD": "x"},
        {"_VIRTMETER_COMPLETE": "fish_complete", "COMP_CWORD": "x"},
        {"_VIRTMETER_COMPLETE": "fish_complete", "COMP_WORDS": "virtmeter"},
        {"_VIRTMETER_COMPLETE": "fish_complete", "COMP_WORDS": "virtmeter", "COMP_CWORD": " "},
        {"_VIRTMETER_COMPLETE": "tcsh_source"},
        {"_VIRTMETER_COMPLETE": "_source"},
        {"_VIRTMETER_COMPLETE": "xx"},
    ],
)
def test_what_asks_like_a_shell_but_is_none(environment: dict[str, str]) -> None:
    done = cli.run("--version", **environment)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"virtmeter {virtmeter.__version__}\n",
        "",
    )


@pytest.mark.parametrize(
    "uri",
    [
        'qemu+tcp://me:s3 cr"et@[::1/system',
        "qemu+tcp://me:s3\tcret@[::1/system",
        "qemu+tcp:/me:s3cret@[::1",
        "nothing://me%3As3cret@host/",
        "qemu+tcp://me:s3cret\udcff@host/system",
    ],
)
def test_no_wrong_uri_tells_its_password(uri: str) -> None:
    for command in (("stats",), ("doctor",), ("doctor", "--format", "json")):
        done = cli.run(*command, "--uri", uri)
        assert done.returncode != 0
        assert "me" in done.stdout + done.stderr
        assert not re.search("s3.?cr|cr.?et", done.stdout + done.stderr)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples(command: str) -> None:
    done = cli.run(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    examples = lines[lines.index("  Examples:") + 1 :]
    assert examples[0].startswith("    virtmeter ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_has_its_documentation(command: str) -> None:
    page = (Path(__file__).parents[2] / f"docs/commands/{command}.md").read_text()
    assert page.startswith(f"# virtmeter {command}\n")
    assert "## Exit status" in page
    found = commands.get_command(click.Context(commands), command)
    assert found
    options = [name for option in found.params for name in option.opts if name.startswith("--")]
    assert [name for name in options if not re.search(f"`{name}[` ]", page)] == []


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("nonsense",), 2),
        (("stats", "--uri", "test:///default", "nobody"), 2),
        (("stats", "--uri", "nothing-like-it:///"), 1),
        (("watch", "--uri", "qemu:///system?socket=/nowhere"), 3),
        (("export", "--once", "--uri", "qemu:///system?socket=/nowhere"), 3),
        (("export", "--once", "--uri", "test:///default"), 0),
    ],
    ids=lambda arguments: " ".join(arguments) if isinstance(arguments, tuple) else "",
)
def test_the_status_is_the_same_with_a_standard_error_that_is_full(
    arguments: tuple[str, ...], status: int
) -> None:
    assert cli.shell('exec "$@" 2>/dev/full', *arguments).returncode == status


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [("export", "--once"), ("stats", "--format", "json")])
def test_output_that_has_no_room_for_all_of_it_is_a_failure(
    tmp_path: Path, command: tuple[str, ...], unbuffered: str
) -> None:
    script = f"ulimit -f 1; exec \"$@\" >'{tmp_path}/output'"
    uri = ("--uri", "test:///default")
    done = cli.shell(script, *command, *uri, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr.endswith("virtmeter: [Errno 27] File too large\n")
    assert 0 < (tmp_path / "output").stat().st_size <= 1024


@pytest.mark.parametrize("command", [("--help",), ("stats", "--help"), ("stats",), ("doctor",)])
def test_a_reader_that_has_seen_enough_is_no_failure(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    uri = () if "--help" in command else ("--uri", cli.some_host(tmp_path, "one"))
    # The reader has gone before the command begins.
    script = '{ sleep 0.2; "$@"; echo "status=$?" >&2; } | true'
    assert cli.shell(script, *command, *uri).stderr == "status=0\n"


@pytest.mark.parametrize("command", ["doctor", "check"])
def test_no_module_is_taken_from_where_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for name in ("json", "ctypes", "typing"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'taken')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    installed = Path(sys.executable).with_name("virtmeter")
    done = subprocess.run(
        [sys.executable, installed, command, "--uri", cli.some_host(tmp_path, "one")],
        capture_output=True,
        text=True,
        check=False,
        env=cli.environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "taken").exists()


def test_what_nobody_has_thought_of_is_a_line_and_a_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def broken() -> None:
        raise KeyError("words")

    monkeypatch.setattr(sys, "argv", ["virtmeter"])
    assert status(broken) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("virtmeter: KeyError in test_errors.py, line ")
    assert "please report it" in line


@pytest.mark.parametrize(("term", "no_color"), [("xterm", "1"), ("dumb", ""), ("xterm", "")])
def test_colours_only_where_they_are_wanted(term: str, no_color: str) -> None:
    script = f"TERM={term} NO_COLOR={no_color} exec {{}}"
    with cli.terminal("doctor", "--uri", "test:///default", script=script) as child:
        said = cli.everything(child)
    assert "virtmeter 0." in said
    assert ("\x1b[" in said) == (term == "xterm" and not no_color)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    "command", [("stats",), ("watch", "--count", "1"), ("doctor",), ("completion", "bash")]
)
def test_standard_streams_may_be_closed(
    tmp_path: Path, command: tuple[str, ...], closed: str
) -> None:
    uri = () if command[0] == "completion" else ("--uri", cli.some_host(tmp_path, "one"))
    done = cli.shell(f'exec "$@" {closed}', *command, *uri)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (">&-" not in closed.split())


@pytest.mark.parametrize("closed", ["<&-", "<&- 2>&-"])
def test_the_watch_needs_no_keyboard(tmp_path: Path, closed: str) -> None:
    uri = cli.some_host(tmp_path, "one")
    script = f"{{}} {closed}; echo status=$?"
    options = ("--uri", uri, "--count", "2", "--interval", "0.1")
    with cli.terminal("watch", *options, script=script) as child:
        said = cli.everything(child)
    assert "1 running" in said
    assert said.endswith("status=0\r\n")


def test_without_the_extra_there_is_a_line_that_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "virtmeter").symlink_to(Path(virtmeter.__file__).parent)
    script = f"""
import runpy, sys
sys.path.append({str(tmp_path)!r})
runpy.run_module("virtmeter.cli", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stderr == (
        "virtmeter: the command line needs click: pip install 'virtmeter[cli]'\n"
    )
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("rich", ("--help",)),
        ("rich", ("stats", "--help")),
        ("rich", ("watch",)),
        ("bcrypt", ("export",)),
        ("prometheus_client", ("export", "--once")),
    ],
)
def test_without_a_part_of_the_extra_there_is_the_same_line(
    module: str, arguments: tuple[str, ...]
) -> None:
    script = f"""
import importlib.abc, sys
from virtmeter.cli.__main__ import main

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
sys.argv[1:] = {arguments!r}
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stderr == (
        f"virtmeter: the command line needs {module}: pip install 'virtmeter[cli]'\n"
    )
    assert (done.returncode, done.stdout) == (1, "")


def test_a_vm_that_cannot_be_read_is_no_reason_to_stop(daemon: Daemon) -> None:
    daemon.add(*(sample.domain(number, bulk=True) for number in (1, 2)))
    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", Never(), uuid=sample.domain(1).uuid, repeat=True)
    done = cli.run("stats", "--uri", daemon.uri, "--timeout", "0.5", "--format", "jsonl")
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr.count("\n") == 1
    assert done.returncode == 1


NO_THREADS = """
import _thread

def start(*arguments, **named):
    raise RuntimeError("can't start new thread")

_thread.start_new_thread = _thread.start_joinable_thread = start
from virtmeter.cli.main import main
main()
"""


@pytest.mark.parametrize("command", [("stats",), ("export", "--once"), ("export",)])
def test_a_limit_of_threads_is_no_fault_of_virtmeters(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_THREADS, *command, "--uri", "test:///default"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "virtmeter: cannot start a thread: check the limits (ulimit -u, TasksMax)\n"
    )


NO_MEMORY = """
import virtmeter
from virtmeter.cli.main import main

def allocate(*_, **__):
    raise MemoryError

virtmeter.open = virtmeter.LibvirtInspector = allocate
main()
"""


def test_a_want_of_memory_is_no_fault_of_virtmeters() -> None:
    command = [sys.executable, "-c", NO_MEMORY, "stats", "--uri", "test:///default"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr == "virtmeter: out of memory: check the limits (ulimit -v)\n"


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)

class Dying:
    def __del__(self):  # as in a callback of the import system's: an exception is lost here
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            pass

class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            Dying()

sys.meta_path.insert(0, Finder())
from virtmeter.cli.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "module", ["click", "virtmeter.cli.main", "virtmeter.cli.stats.command", "rich"]
)
def test_ctrl_c_while_modules_are_imported_is_neither_lost_nor_a_traceback(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(module=module), "stats"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


ENDS_BY = """
import logging
import click
from virtmeter.cli import main

@click.command()
def command():
    {what}

main.commands = command
main.main()
"""


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2> >(exec >&- 2>&-; exit)", "2>&-"])
def test_the_status_of_ctrl_c_is_the_same_where_nothing_can_be_said_of_it(stderr: str) -> None:
    program = [sys.executable, "-c", ENDS_BY.format(what="raise KeyboardInterrupt")]
    # The reader of the pipe is gone by then.
    command = ["bash", "-c", f'exec "$@" {stderr}', "-", *program]
    assert subprocess.run(command, timeout=60, check=False).returncode == 130


def test_a_message_that_nothing_can_hold_is_none_of_its_command() -> None:
    says = ENDS_BY.format(what="logging.getLogger('virtmeter').warning('\\xe9'); print('told')")
    done = subprocess.run(
        # Without what says where packages are: it may not be ASCII.
        ["sh", "-c", 'exec "$@" 2>&-', "-", sys.executable, "-S", "-c", says],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            "LC_ALL": "C",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONUTF8": "0",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
    )
    assert (done.returncode, done.stdout) == (0, "told\n")


def test_a_line_that_has_no_room_is_the_only_one_that_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            if not self.getvalue().endswith("second\n"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def fileno(self) -> int:
            pytest.fail("it is closed")

    monkeypatch.setattr(sys, "stderr", stderr := Full())
    say("first")
    say("second")
    assert stderr.getvalue().endswith("virtmeter: second\n")


ENDED_TWICE = """
import os, signal
import click
from virtmeter.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGALRM, signal.SIG_IGN)  # as a parent may have it

def kill(*_):
    os.kill(os.getpid(), {number})

class Dying:
    __del__ = kill

def end(_):
    ended = status(click.command()(kill))
    Dying()  # an exception would be a traceback here, and lost
    return ended

status, main.status = main.status, end
main.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_one_ends_the_process_changes_nothing(number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDED_TWICE.format(number=int(number))],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (128 + number, "", "")


def test_the_end_does_not_depend_on_one_alarm() -> None:
    """It may come just before a call that waits, which it does not interrupt then."""
    script = """
import os, signal
from virtmeter.cli import ending
ending.TIMEOUT = 0.1
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
ending.bound(7)
signal.sigwait([signal.SIGALRM])
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
os.read(os.pipe()[0], 1)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=cli.TIMEOUT)
    assert done.returncode == 7


def test_a_signal_ends_a_command_whose_output_nobody_takes() -> None:
    script = """
import signal, sys
from virtmeter.cli import ending, main
ending.TIMEOUT = 0.1

def write(_):
    try:
        sys.stdout.write(1_000_000 * "x")
    except SystemExit as ended:
        return ended.code

main.status = write
main.main()
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writing:
        try:
            assert writing.stdout
            assert writing.stdout.read(1)
            writing.terminate()
            assert writing.wait(cli.TIMEOUT) == 128 + signal.SIGTERM
        finally:
            writing.kill()
