"""``virtmeter completion``, in a real shell."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import cli

COMMAND = Path(sys.executable).with_name("virtmeter")
SHELLS = ("bash", "zsh", "fish")


@pytest.mark.skipif(not COMMAND.exists(), reason="virtmeter is not installed as a command here")
def test_bash_completes_commands_options_and_choices() -> None:
    with cli.terminal(script="exec bash --norc --noprofile -i") as shell:
        path = shlex.quote(str(COMMAND.parent))
        shell.sendline(f"PS1='ready> '; PATH={path}:$PATH; bind 'set bell-style none'")
        shell.sendline('eval "$(virtmeter completion bash)"; echo loaded=$?')
        shell.expect_exact("loaded=0\r\n")
        for typed, completed in [
            ("virtmeter st\t", "virtmeter stats "),
            ("--form\t", "--format "),
            ("js\t", "json"),
        ]:
            shell.send(typed)
            shell.expect_exact(completed)
        shell.sendline("\x15exit")
        cli.everything(shell)
        assert shell.exitstatus == 0


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_its_script(shell: str) -> None:
    done = cli.run("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_VIRTMETER_COMPLETE={shell}_complete" in done.stdout
    assert "virtmeter" in done.stdout
    if path := shutil.which(shell):
        checked = subprocess.run(
            [path, "-n"], input=done.stdout, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, "")


def test_another_shell_is_wrong_usage() -> None:
    done = cli.run("completion", "tcsh")
    assert done.returncode == 2
    assert "'bash', 'zsh', 'fish'" in done.stderr
