"""Runs scripts that use Ceilometer in forks of a process that has imported what it uses.

To import that takes longer than what most of them do. Of what the tests are about, nothing is
imported before the fork: neither virtmeter nor libvirt. To be run by the Python of each Ceilometer.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class ForkServer:
    """The process, and what it is asked for: one script after the other."""

    def __init__(self, python: str) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            command = [python, "-W", "ignore", __file__, str(number)]
            self._process = subprocess.Popen(command, pass_fds=[number])

    @contextmanager
    def script(self, *command: str, stderr: IO[str]) -> Iterator[tuple[IO[str], IO[str]]]:
        """Run a script with its arguments, as ``python -W ignore`` does: its input and output.

        At the end of the block, it has to have ended without an error.
        """
        reading, stdin = os.pipe()
        stdout, writing = os.pipe()
        try:
            given = [reading, writing, stderr.fileno()]
            socket.send_fds(self._socket, [json.dumps(command).encode()], given)
        finally:
            os.close(reading)
            os.close(writing)
        try:
            with os.fdopen(stdin, "w") as to_it, os.fdopen(stdout) as from_it:
                yield to_it, from_it
        finally:
            status = self._socket.recv(16)
        stderr.seek(0)
        assert status == b"0", stderr.read()

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait(60)


def serve(client: socket.socket) -> None:
    """Fork for each command that comes, and return in the child, which is to run it."""
    while True:
        message, descriptors, *_ = socket.recv_fds(client, 65536, 3)
        if not message:
            sys.exit()
        child = os.fork()
        if child == 0:
            for standard, given in enumerate(descriptors):
                os.dup2(given, standard)
        for given in descriptors:
            os.close(given)
        if child == 0:
            client.close()
            sys.argv = json.loads(message)
            return
        _, status = os.waitpid(child, 0)
        client.send(str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    # Most of what takes long; ceilometer.service would bring libvirt along.
    import ceilometer.keystone_client
    import ceilometer.messaging  # noqa: F401

    assert not {"libvirt", "virtmeter"} & sys.modules.keys()
    serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_path(sys.argv[0], run_name="__main__")
