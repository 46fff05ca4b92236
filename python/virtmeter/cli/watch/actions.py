"""What keys do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtmeter.cli.watch.model import ORDERS

if TYPE_CHECKING:
    from virtmeter.cli.watch.model import Model


class Commands:
    """Changes what is seen of the model, key by key."""

    def __init__(self, model: Model) -> None:
        """Begin with the table."""
        self._model = model
        self.typing = False
        """Whether a filter is being typed."""
        self.help = False
        """Whether the keys are explained, in place of the table."""

    def do(self, key: str, room: int) -> bool:
        """Do what a key stands for; False when that is to end. The screen has ``room`` rows."""
        if self.typing:
            self._type(key)
            return True
        moves = {
            "up": -1, "down": 1, "page up": -room, "page down": room,
            "home": -len(self._model.rows), "end": len(self._model.rows),
        }  # fmt: skip
        if key == "q":
            return False
        if key in ("?", "h"):
            self.help = not self.help
        elif key == "escape":
            self.help = False
            self._model.filter_by("")
        elif key in ORDERS:
            self._model.sort_by(key)
        elif key == "r":
            self._model.reverse = not self._model.reverse
        elif key == "/":
            self.typing, self.help = True, False
        elif key in moves:
            self._model.scroll(moves[key], room)
        return True

    def _type(self, key: str) -> None:
        """Change the filter by a key."""
        if key == "escape":
            self._model.filter_by("")
        elif key == "backspace":
            self._model.filter_by(self._model.filter[:-1])
        elif len(key) == 1 and key.isprintable():
            self._model.filter_by(self._model.filter + key)
        self.typing = key not in ("escape", "enter")
