"""``python -m seamline`` is the command ``seamline``."""

from __future__ import annotations

import atexit
import os
import sys

from seamline.flows.terminal.output import protect_output
from seamline.flows.terminal.process import claim_process, handle_signals, leave_at_once, report_stop


def main() -> None:
    """Run the command line and exit. A signal ends it in order, also while it is still being imported."""
    atexit.register(leave_at_once)  # handlers run in reverse order, so this one runs last
    claim_process()
    handle_signals()
    protect_output()
    try:
        from seamline.flows.cli.main import main as run_command
    except KeyboardInterrupt:
        code = report_stop()
        sys.stderr.flush()
        os._exit(code)  # extension modules that were being initialized may have noted an interrupt that is not handled
    run_command()


if __name__ == "__main__":
    main()
