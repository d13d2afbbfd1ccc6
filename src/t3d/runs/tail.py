"""The new rows of a metrics.jsonl, for whoever watches a run from outside."""

from __future__ import annotations

from pathlib import Path

from t3d.formats import Row
from t3d.storage.row_lines import HalfRow, RowReader


class Tail:
    """Read a metrics.jsonl whenever there is more; a run that goes on may have cut it, and it is read anew then.

    Args:
        path: the file, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = RowReader(path)

    def rows(self) -> list[Row] | None:
        """Return the rows that are new; None where rows were cut: the next call begins with the first row again."""
        rows: list[Row] = []
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            if size < self._reader.position:
                raise ValueError("it was cut")
            rows.extend(self._reader.rows(size))
        except HalfRow:
            pass  # it is being written
        except ValueError:
            self._reader = RowReader(self.path)
            return None
        return rows
