"""How far several seeds are, in lines, where no terminal shows bars."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence

from t3d.execution.processes import Standing
from t3d.formats import Row
from t3d.runs.live_line import plain

_LEAST_S = 1.0  # between two lines of one seed


class SeedLines:
    """Print a line at an evaluation of each of several seeds, at most one a second for each."""

    def __init__(self) -> None:
        self._said: dict[int, tuple[float, Row | None]] = {}

    def show(self, seeds: Sequence[Standing]) -> None:
        """Print what is new."""
        for seed in seeds:
            said_s, row = self._said.get(seed.seed, (-math.inf, None))
            late = time.monotonic() - said_s >= _LEAST_S or not seed.running
            if seed.evaluation and seed.evaluation != row and late:
                print(f"seed {seed.seed:<4}{plain(seed.evaluation)}", file=sys.stderr, flush=True)
                self._said[seed.seed] = time.monotonic(), seed.evaluation
