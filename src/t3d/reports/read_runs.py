"""Read run folders. They may come from strangers: nothing in them is trusted to be what it should be."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t3d.diagnosis import actions
from t3d.diagnosis.actions import ActionTrace
from t3d.env_spec import EnvSpec
from t3d.errors import RunRefused
from t3d.formats import MILESTONES, ROWS, Engine, Machine, Manifest, Row, RunRecord
from t3d.storage import checked_files
from t3d.storage.row_lines import HalfRow, RowReader

# What a report reads.
_READ = (
    *("config.json", "metrics.jsonl", "checkpoints", "video", "policy"),
    *(f"video/{name}.mp4" for name in ("best", "last", *MILESTONES)),
    "video/seen.png",
    *(f"policy/{name}.safetensors" for name in ("best", "last", *MILESTONES)),
)
_MAX_CHECKPOINTS = 1_000
SPANS = 20


@dataclass(frozen=True)
class Run:
    """One run folder, read. Equal for equal folders; nothing is computed here but what its rows say."""

    path: Path
    spec: EnvSpec
    preset: str
    options: dict[str, Any]  # every option by its flag's name, the algorithm's among them; and the algorithm
    engine: Engine
    machine: Machine
    period_s: float | None  # of an env step, where it is known
    rows: dict[str, list[Row]]  # by kind, each in the order of env steps
    gaps: tuple[tuple[int, int], ...]  # env steps between which rows are gone
    notes: tuple[str, ...]

    @property
    def env(self) -> str:
        """The environment's title, equal wherever its file lies."""
        return self.spec.short_title

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.options["seed"])

    @property
    def action_repeat(self) -> int:
        """Frames of the environment that an env step of this run is."""
        return int(self.options["action_repeat"])

    @property
    def evaluations(self) -> dict[int, float]:
        """The mean return of each evaluation, by the env steps it was due at. Of two at one step the later counts."""
        return {int(row.get("due") or row["env_steps"]): float(row["return_mean"]) for row in self.rows["evaluation"]}

    @property
    def last_actions(self) -> ActionTrace | None:
        """How the actions of the last evaluation moved; None if its row says nothing of it."""
        return actions.from_row(self.rows["evaluation"][-1]) if self.rows["evaluation"] else None

    @property
    def is_evaluated(self) -> bool:
        """Whether it was to be evaluated at all; else its training episodes tell how it went."""
        return bool(self.options["eval_every"] != "never")

    @property
    def curve(self) -> dict[int, float]:
        """The run's returns by env steps: of its evaluations; or of the training episodes that ended until then.

        Those are put together in SPANS parts of the run, by the mean of each in which an episode ended.
        """
        if self.is_evaluated:
            return self.evaluations
        span = max(1, int(self.options["steps"]) // SPANS)
        spans: dict[int, list[float]] = {}
        for row in self.rows["episode"]:
            spans.setdefault(-(-row["env_steps"] // span) * span, []).append(float(row["return"]))
        return {end: sum(returns) / len(returns) for end, returns in spans.items()}

    @property
    def env_steps(self) -> int:
        """How far it came."""
        return max((row["env_steps"] for rows in self.rows.values() for row in rows), default=0)

    @property
    def wall_s(self) -> float:
        """How long it took, in seconds."""
        return max((row["wall_s"] for rows in self.rows.values() for row in rows), default=0.0)

    @property
    def finished(self) -> bool:
        """Whether it came to the end that was asked for, and was evaluated there."""
        end = max(self.evaluations, default=0) if self.is_evaluated else self.env_steps
        return end >= int(self.options["steps"])

    @property
    def random_returns(self) -> list[float]:
        """Returns of the training episodes that ended while all actions were still uniformly random."""
        return [float(row["return"]) for row in self.rows["episode"] if row["env_steps"] <= self._random_steps]

    @property
    def untrained_returns(self) -> list[float]:
        """Mean returns of the evaluations before the first update."""
        return [value for step, value in self.evaluations.items() if self.untrained_at(step)]

    def untrained_at(self, env_steps: int) -> bool:
        """Return whether no update had been made by then."""
        return env_steps <= self._random_steps

    @property
    def _random_steps(self) -> int:
        return int(self.options["random_steps"])


def find(paths: Sequence[Path]) -> list[Run]:
    """Read runs.

    Args:
        paths: run folders, or parents of run folders. A run named twice is read once.

    Raises:
        RunRefused: a folder holds no run, or what a run holds cannot be read.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        for folder in _folders(path):
            folders.setdefault(folder.resolve(), folder)
    return [read(folder) for folder in folders.values()]


def _folders(path: Path) -> list[Path]:
    if (path / "config.json").is_file() or any(path.glob("checkpoints/*/manifest.json")):
        return [path]
    # One that lacks its config.json is refused when it is read: nobody shall miss a seed without a word.
    children = {child.parent for child in path.glob("*/config.json")}
    children |= {manifest.parents[2] for manifest in path.glob("*/checkpoints/*/manifest.json")}
    if not children:
        raise RunRefused(
            "there is no run here",
            got=str(path),
            expected="a folder that t3d train has written, or one that holds such folders",
            do="name one of runs/*/*",
        )
    return sorted(children, key=lambda child: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", child.name)])


def read(folder: Path) -> Run:
    """Read one run folder.

    Raises:
        RunRefused: config.json is damaged, metrics.jsonl is another run's, or one of the files is a link. The message
            names it.
    """
    # A stranger's link could bring another file of this machine into a page that is then shown around.
    checked_files.refuse_links(*(folder / name for name in _READ))
    path = folder / "metrics.jsonl"
    try:
        record = checked_files.read(folder / "config.json", RunRecord)
        # The checkpoint first: a run that goes on meanwhile only appends.
        vouched = _vouched(folder / "checkpoints")
        rows, notes = _metrics(path, record.run, vouched)
    except OSError as error:
        raise RunRefused("a run cannot be read", got=str(error), do="see to the disk, then try again") from error
    options = {**vars(record.config), **vars(record.config.td3)}
    del options["td3"]
    if record.algorithm != record.config.algorithm.upper():  # a class of somebody's own
        options["algorithm"] = record.algorithm
        options["source"] = " then ".join(source[:8] for source in record.sources)
    return Run(
        path=folder,
        spec=record.spec,
        preset=record.preset,
        options={name: list(value) if isinstance(value, tuple) else value for name, value in options.items()},
        engine=record.engine,
        machine=record.machine,
        period_s=record.period_s,
        rows=rows,
        gaps=tuple((row["lost"][0], row["lost"][1]) for row in rows["event"] if row.get("lost")),
        notes=tuple(notes),
    )


def _vouched(checkpoints: Path) -> int:
    """Return how long metrics.jsonl was when the newest checkpoint that can be read was written."""
    sizes = [(-1, 0)]
    for path in itertools.islice(checkpoints.glob("*/manifest.json"), _MAX_CHECKPOINTS):
        try:
            manifest = checked_files.read(path, Manifest)
        except (RunRefused, OSError):
            continue  # damaged, or just removed
        if path.parent.suffix != ".new":  # begun, and not committed
            sizes.append((manifest.number, manifest.metrics.bytes))
    return max(sizes)[1]


def _metrics(path: Path, run: str, vouched: int) -> tuple[dict[str, list[Row]], list[str]]:
    """Return the rows up to the first that is not as it was written, and what is to be said of those behind it."""
    rows: dict[str, list[Row]] = {kind: [] for kind in ROWS}
    reader, count, notes = RowReader(path), 0, []
    try:
        for row in reader.rows(path.stat().st_size if path.is_file() else 0):
            rows[row["kind"]].append(row)
            count += 1
    except HalfRow:
        notes.append(f"The last line of metrics.jsonl, line {count + 1}, is half written and left out.")
    except (ValueError, RecursionError) as error:
        notes.append(f"metrics.jsonl is damaged: its lines from {count + 1:,} on are left out ({str(error)[:100]}).")
    else:
        if reader.position < vouched:
            notes.append(f"metrics.jsonl is cut short: it had {vouched:,} bytes, and has {reader.position:,}.")
    if count and reader.run != run:
        raise RunRefused("metrics.jsonl is another run's", got=f"{path}: {reader.run}", expected=run)
    notes += [
        "Rows between env steps {:,} and {:,} are gone: metrics.jsonl was damaged.".format(*row["lost"])
        for row in rows["event"]
        if row.get("lost")
    ]
    for of_kind in rows.values():
        of_kind.sort(key=lambda row: row["env_steps"])
    return rows, notes
