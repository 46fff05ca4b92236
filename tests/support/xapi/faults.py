"""What can go wrong between a host and its client, on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(eq=False)
class Fault:
    """What happens to the requests that it is for. The first that fits a request is taken."""

    #: Requests whose path begins like this.
    path: str = "/"
    #: Calls of this method only.
    method: str = ""
    #: How often; below 0: always.
    times: int = -1
    #: Wait so many seconds before the answer.
    delay: float = 0.0
    #: Do not answer at all, or stop within: until the test ends.
    hang: Literal["", "head", "body"] = ""
    #: Send the body in pieces of so many bytes, and wait `pause` seconds after each.
    drip: int = 0
    pause: float = 0.01
    #: Close the connection after so many bytes of the body.
    cut: int | None = None
    #: End with RST where the connection would be closed. With no `cut`, at once.
    reset: bool = False
    #: Send the body's last piece for ever.
    endless: bool = False
    #: Announce so many bytes more than there are, or fewer.
    length: int = 0
    #: Answer a call with this error of XAPI: its code and its parameters.
    error: tuple[str, ...] = ()
    #: Answer with this status, these headers and this body.
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    #: Send this instead of anything else.
    raw: bytes | None = None
    #: How often it has happened.
    happened: int = 0

    def fits(self, path: str, method: str) -> bool:
        return (
            self.times != 0
            and path.startswith(self.path)
            and (not self.method or self.method == method)
        )
