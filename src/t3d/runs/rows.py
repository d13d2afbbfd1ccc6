"""A run's rows while it trains, for whoever reads them in a loop of their own and may stop when they like."""

from __future__ import annotations

import atexit
import contextlib
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

from t3d.formats import Row
from t3d.runs.session import Session

# Those that were neither read to the end nor closed.
_open: weakref.WeakSet[Rows] = weakref.WeakSet()


class Rows:
    """Train while being read: each row of metrics.jsonl as it is written.

    The run is saved, and its folder free again, at its end, when the block of a `with` is left, when `close` is called,
    when nobody holds this any more (a `for` over `t3d.iterate(...)` that was left), or at the interpreter's end.

    Args:
        session: which has not run yet.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._rows = session.run()
        self._begun = False
        _open.add(self)

    @property
    def path(self) -> Path:
        """The run folder."""
        return self._session.path

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Row:
        """Train on until there is another row.

        Raises:
            Failed: while running; what was learned is saved.
            Stopped: a signal asked for it; what was learned is saved.
        """
        self._begun = True
        return next(self._rows)

    def close(self) -> None:
        """Save the run as it stands, if it has not ended, and let go of its folder.

        Raises:
            Failed: it cannot be saved.
        """
        _open.discard(self)
        self._rows.close()
        if not self._begun:  # nothing of the generator has run, nor does its end
            self._begun = True
            self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_rows"):
            self.close()


@atexit.register
def _close_all() -> None:
    with contextlib.ExitStack() as stack:  # where one cannot be saved, the others are
        for rows in list(_open):
            stack.callback(rows.close)
