"""Reports: what run folders say, as numbers and as one page. Reads run folders only; knows nothing of training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


def write_report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write one self-contained HTML page about some runs.

    Args:
        paths: run folders, or parents of run folders.
        out: the file to write; None takes report.html in the first of `paths`.

    Returns:
        The file written.

    Raises:
        RunRefused: a folder is no run, cannot be read, or holds no evaluation yet; or `out` cannot be written.
    """
    # SciPy takes a second to import.
    from t3d.reports.page import write

    return write(paths, out)


_HEAD_BYTES = 2_000
_RUNS = re.compile(rb'<meta name="t3d-runs" content="(\d+)">')


def compares_several(page: Path) -> bool:
    """Return whether a file is a report of several runs, as somebody has asked for it."""
    try:
        with page.open("rb") as file:
            found = _RUNS.search(file.read(_HEAD_BYTES))
    except OSError:
        return False
    return found is not None and int(found[1]) > 1
