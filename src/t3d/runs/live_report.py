"""A run's report while it trains: what tells the process that writes it (`t3d.reports.live`) of evaluations."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

# The writer's imports and a page take two seconds of a core: before these are a hundredth of the run there is none.
FIRST_S = 200.0
LEAST_S, SHARE = 60.0, 0.01
_LEAVES_S = 20.0


class LiveReport:
    """Let a run's page be written anew at evaluations, by a process of its own; training does not depend on that.

    Args:
        run: the run folder.
        first_s: seconds before there is such a process.
        least_s: seconds between two pages.
        share: of the run's time, what it may spend computing.
    """

    def __init__(self, run: Path, first_s: float = FIRST_S, least_s: float = LEAST_S, share: float = SHARE) -> None:
        self._run, self._limits, self._first_s = run, (least_s, share), first_s
        self._began = time.monotonic()
        self._writer: subprocess.Popen[bytes] | None = None

    def evaluated(self) -> None:
        """Say that there was an evaluation."""
        elapsed_s = time.monotonic() - self._began
        if self._writer is None and elapsed_s >= self._first_s:
            self._writer = self._start(elapsed_s)
        if self._writer is not None and self._writer.poll() is None:
            assert self._writer.stdin is not None
            # It may just have ended, and said why; or it is behind, and hears of the next one.
            with contextlib.suppress(BrokenPipeError, BlockingIOError):
                self._writer.stdin.write(b"\n")

    def _start(self, elapsed_s: float) -> subprocess.Popen[bytes]:
        numbers = [str(number) for number in (elapsed_s, *self._limits)]
        command = [sys.executable, "-P", "-m", "t3d.reports.live", str(self._run.absolute()), *numbers]
        # A session of its own: Ctrl-C is for the run, and the last page is written after it.
        writer = subprocess.Popen(  # noqa: S603 - our own interpreter and module; arguments reach no shell
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        assert writer.stdin is not None
        os.set_blocking(writer.stdin.fileno(), False)
        return writer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the page say that the run does not go on; where it came to its end another page will follow."""
        if self._writer is None:
            return
        if kind is None:
            self._writer.kill()
        assert self._writer.stdin is not None
        self._writer.stdin.close()
        try:
            self._writer.wait(_LEAVES_S)
        except subprocess.TimeoutExpired:
            self._writer.kill()
            self._writer.wait()
