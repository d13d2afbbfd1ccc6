"""`t3d.read`: what runs have recorded, as arrays by name, for figures and questions of one's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t3d.errors import ConfigRefused, RunRefused
from t3d.formats import Row
from t3d.reports.grouping import labels
from t3d.reports.read_runs import Run, find

# A table takes rows times columns: a stranger's file of small size could name more than any memory holds.
_MOST_COLUMNS = 1_000


class Table(Mapping[str, NDArray[Any]]):
    """Columns of one length by their names, as NumPy arrays.

    A number that a row does not have is NaN, a text that it does not have is empty. A column of lists, as the returns
    of an evaluation's episodes, is of shape (rows, entries) if all are of one length, else an array of arrays.

    Args:
        columns: by name.
    """

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self._columns = dict(columns)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        """Return the number of columns."""
        return len(self._columns)

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return max(map(len, self._columns.values()), default=0)

    def __repr__(self) -> str:
        return f"<{self.rows:,} rows: {', '.join(self)}>"

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame.

        Raises:
            ConfigRefused: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ConfigRefused("pandas is not installed", do='pip install "t3d[data]"') from error
        return pandas.DataFrame(self._flat())

    def to_polars(self) -> Any:
        """Return a polars.DataFrame.

        Raises:
            ConfigRefused: polars is not installed.
        """
        try:
            import polars
        except ImportError as error:
            raise ConfigRefused("polars is not installed", do='pip install "t3d[data]"') from error
        return polars.DataFrame(self._flat())

    def _flat(self) -> dict[str, Any]:
        is_plain = {
            name: column.ndim == 1 and not isinstance(next(iter(column), None), np.ndarray)
            for name, column in self._columns.items()
        }
        return {n: c if is_plain[n] else [row.tolist() for row in c] for n, c in self._columns.items()}


@dataclass(frozen=True)
class Records:
    """What runs have recorded. Each table says of a row its run's folder, seed and group, its env steps and its frames:
    env steps times the action repeat, by which runs of different ones compare.

    `docs/design.md` names the columns of each kind of row, `docs/health.md` explains those of health.
    """

    runs: Table  # one row a run: folder, seed, group, env, preset, how far it came, whether to its end
    evaluations: Table
    episodes: Table  # of training
    losses: Table
    health: Table
    events: Table
    notes: tuple[str, ...]  # what is to be known of the files: a line that is half written, rows that are gone

    def __repr__(self) -> str:
        tables = {name: table for name, table in vars(self).items() if isinstance(table, Table)}
        lines = [f"{name:<12}{table.rows:>9,} rows" for name, table in tables.items()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def read(*paths: str | Path) -> Records:
    """Return what runs have recorded, up to the last whole line of each; a run that goes on may be read.

    Args:
        paths: run folders, or folders that hold run folders.

    Raises:
        RunRefused: there is no run, or what it holds cannot be read.
    """
    if not paths:
        raise RunRefused("no run was named", expected="one or more run folders", do='t3d.read("runs/...")')
    runs = find([Path(path) for path in paths])
    named = list(zip(runs, labels(runs), strict=True))
    facts = [
        {
            "env": run.env,
            "preset": run.preset,
            "action_repeat": run.action_repeat,
            "env_steps": run.env_steps,
            "frames": run.env_steps * run.action_repeat,
            "finished": run.finished,
        }
        for run in runs
    ]
    return Records(
        runs=_table([_origin(run, group) | fact for (run, group), fact in zip(named, facts, strict=True)]),
        evaluations=_of_kind(named, "evaluation"),
        episodes=_of_kind(named, "episode"),
        losses=_of_kind(named, "update"),
        health=_of_kind(named, "health"),
        events=_of_kind(named, "event"),
        notes=tuple(note if len(runs) == 1 else f"{run.path}: {note}" for run in runs for note in run.notes),
    )


def _origin(run: Run, group: str) -> Row:
    return {"run": str(run.path), "seed": run.seed, "group": group}


def _of_kind(named: Sequence[tuple[Run, str]], kind: str) -> Table:
    return _table(
        [
            {**_origin(run, group), **row, "frames": row["env_steps"] * run.action_repeat}
            for run, group in named
            for row in run.rows[kind]
        ]
    )


def _table(rows: Sequence[Row]) -> Table:
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    names.pop("kind", None)
    if len(names) > _MOST_COLUMNS:
        raise RunRefused("rows of too many names", got=f"{len(names):,}", expected=f"at most {_MOST_COLUMNS:,}")
    return Table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[Any]) -> NDArray[Any]:
    given = [value for value in values if value is not None]
    if any(isinstance(value, list) for value in given):
        lists = [value if isinstance(value, list) else [] if value is None else [value] for value in values]
        if len({len(entries) for entries in lists}) == 1:
            return np.array(lists)
        ragged = np.empty(len(lists), object)
        ragged[:] = [np.array(entries) for entries in lists]
        return ragged
    if any(isinstance(value, str) for value in given):
        texts = np.empty(len(values), object)
        texts[:] = ["" if value is None else value for value in values]
        return texts
    return np.array([np.nan if value is None else value for value in values])
