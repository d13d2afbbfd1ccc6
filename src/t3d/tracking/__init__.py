"""Experiment trackers: a process of its own reads what a run writes, and sends it on. It cannot hurt the run."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from t3d.formats import Row, RunRecord

# Beyond this, numbers have gaps where a tracker keeps them as doubles.
_KEY_BITS = 53


class Sink(Protocol):
    """One run at a tracker."""

    def sent(self) -> set[int]:
        """Return the keys of the rows and files that the tracker has, whoever has sent them."""
        ...

    def send(self, rows: list[tuple[int, Row]]) -> None:
        """Send rows, each with its key."""
        ...

    def keep(self, key: int, name: str, path: Path) -> None:
        """Send a file."""
        ...

    def close(self) -> None:
        """Return once everything has been sent, or is on the disk."""
        ...


class Keys:
    """The key of each row of a run, the same whenever the row comes again after a resume.

    A run that goes on repeats its rows to the bit, but for the wall time; only events may stand between them. So a row
    is told by its kind, its env steps, and how many of that kind stood at these env steps before it.
    """

    def __init__(self) -> None:
        self._seen: Counter[tuple[str, int]] = Counter()

    def of(self, row: Row) -> int:
        """Return the key of the next row."""
        place = (row["kind"], row["env_steps"])
        self._seen[place] += 1
        return key_of(f"{place[0]}:{place[1]}:{self._seen[place]}")


def key_of(text: str) -> int:
    """Return a number for a text that two texts do not share, as good as never."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - _KEY_BITS)


def numbers_of(row: Row) -> dict[str, float]:
    """Return a row's numbers by name, as `evaluation/return_mean`: lists and texts are the run folder's alone."""
    return {
        f"{row['kind']}/{name}": value
        for name, value in row.items()
        if isinstance(value, int | float) and name not in ("env_steps", "crc32")
    }


def options_of(record: RunRecord) -> dict[str, Any]:
    """Return what a tracker shows as the run's configuration."""
    options = {**vars(record.config), **vars(record.config.td3)}
    del options["td3"]
    shown = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    return shown | {"env": record.spec.title, "preset": record.preset, "algorithm": record.algorithm, "run": record.run}


def batches(rows: Iterable[tuple[int, Row]], size: int) -> Iterable[list[tuple[int, Row]]]:
    """Yield rows so many at a time."""
    iterator = iter(rows)
    return iter(lambda: list(itertools.islice(iterator, size)), [])
