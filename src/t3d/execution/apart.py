"""A process between a task of a cluster and the run that it trains: when a task ends, Ray kills its children.

It would kill them before they have saved. This one may be killed: the run sees that the task is gone, and saves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType


def main() -> None:
    """Train a job in a process of its own, hand signals on to it, and end as it does."""
    command = [sys.executable, "-P", "-m", "t3d.execution.jobs", *sys.argv[1:]]
    process = subprocess.Popen(command)  # noqa: S603 - our own interpreter and module; arguments reach no shell

    def hand_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    signal.signal(signal.SIGTERM, hand_on)
    code = process.wait()
    if code < 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
