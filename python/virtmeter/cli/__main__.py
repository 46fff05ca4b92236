"""``python -m virtmeter.cli``, and what the command ``virtmeter`` starts."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from virtmeter.cli.starting import INTERRUPTED, interruptible, lacking


def main() -> NoReturn:
    """Run the command line, or say that it is not installed."""
    try:
        with interruptible():
            from virtmeter.cli.main import main
        main()
    except KeyboardInterrupt:  # before the command had begun, which has its own way to end
        os._exit(INTERRUPTED)  # at once, or another Ctrl-C would be a traceback
    except ModuleNotFoundError as error:
        sys.exit(f"virtmeter: {lacking(error)}")


if __name__ == "__main__":
    main()
