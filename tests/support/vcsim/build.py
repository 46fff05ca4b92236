"""The server's program, built from server/ with what Debian packages."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path
from shutil import which

ROOT = Path(__file__).parents[3]
SOURCE = Path(__file__).parent / "server"
#: Where golang-github-vmware-govmomi-dev puts the libraries.
GOPATH = Path("/usr/share/gocode")


def unavailable() -> str | None:
    """Say why the server cannot run here, if it cannot."""
    if which("go") is None:
        return "go is missing (Debian's golang-go)"
    if not (GOPATH / "src/github.com/vmware/govmomi/simulator").is_dir():
        return "govmomi is missing (Debian's golang-github-vmware-govmomi-dev)"
    if which("openssl") is None:
        return "there is no openssl"
    return None


def go(*arguments: str) -> str:
    """Return what a command of Go prints about the sources."""
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": ""}
    if not os.access(os.environ.get("HOME", ""), os.W_OK):
        environment.setdefault("GOCACHE", str(ROOT / "build/go"))
    command = ["go", *arguments]
    return subprocess.run(
        command, cwd=SOURCE, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


@cache
def program() -> Path:
    """Return the path of the program. It is built if no source of it was yet: half a minute."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE.glob("*.go")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    built = ROOT / "build/vcsim" / digest.hexdigest()[:16]
    with (SOURCE / "main.go").open() as file:
        # Whoever comes second waits for what the first one builds.
        fcntl.flock(file, fcntl.LOCK_EX)
        if not built.exists():
            built.parent.mkdir(parents=True, exist_ok=True)
            for older in built.parent.iterdir():
                older.unlink()
            made = built.with_suffix(f".{os.getpid()}")
            go("build", "-o", str(made), ".")
            made.rename(built)
    return built
