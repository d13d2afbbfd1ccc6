"""The page of a run that goes on, written anew beside it: `python -m t3d.reports.live RUN ELAPSED_S LEAST_S SHARE`.

Whoever trains says on standard input that there was an evaluation, a line each. When standard input ends, however that
came about, the page is written once more: then it no longer says that the run goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from t3d.errors import RunRefused
from t3d.reports import compares_several, html, page
from t3d.reports.page import Live, Report

# A page whose run has written nothing for so long stops reloading: what writes it may have been killed, too.
_PATIENCE_S = 600.0
_PATIENCE_INTERVALS = 3


def follow(said: Iterable[str], run: Path, elapsed_s: float, least_s: float, share: float) -> int:
    """Write a run's page whenever it is time, until there is nothing more to hear. Return how often that was.

    Args:
        said: something at each evaluation.
        run: the run folder. A page there that compares several runs is left as it is.
        elapsed_s: how long this process of the run has lasted.
        least_s: seconds between two pages.
        share: of the run's time, what this process may spend computing.

    Raises:
        RunRefused: the run cannot be read, or the page not be written.
    """
    out, began, written = run / "report.html", time.monotonic() - elapsed_s, 0
    last = began
    for _ in said:
        now = time.monotonic()
        if now - last < least_s or time.process_time() > share * (now - began) or compares_several(out):
            continue
        report = page.gather([run])
        html.write(page.render(report, Live(max(1.0, least_s), _until(report))), out)
        last, written = now, written + 1
    if written and not compares_several(out):
        page.write([run], out)
        written += 1
    return written


def _until(report: Report) -> float:
    """Return the time, in seconds since 1970, from which on the run counts as dead if it has not written again."""
    ends = [0.0, *(float(row["wall_s"]) for row in report.runs[0].rows["evaluation"])]
    interval = max(after - before for before, after in itertools.pairwise(ends))
    return time.time() + max(_PATIENCE_S, _PATIENCE_INTERVALS * interval)


def main(arguments: Sequence[str]) -> int:
    """Follow a run from a process of its own; return an exit code."""
    with contextlib.suppress(AttributeError, OSError):  # Windows has no such call
        os.nice(10)
    run, *numbers = arguments
    try:
        follow(sys.stdin, Path(run), *map(float, numbers))
    except RunRefused as error:
        print(f"the report was not written anew: {error.one_line()}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
