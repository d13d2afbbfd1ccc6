"""Read run folders. They may come from strangers: nothing in them is trusted to be what it should be."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from t3d import sealed
from t3d.errors import RunRefused

Row = dict[str, Any]

KINDS = ("episode", "update", "evaluation", "event", "health")
_NUMBERS = {"episode": ("return", "length"), "evaluation": ("return_mean",)}
# What a report reads.
_READ = ("config.json", "metrics.jsonl", "checkpoints", "video", "video/best.mp4", "video/last.mp4")
_MAX_CHECKPOINTS = 1_000


@dataclass(frozen=True)
class Run:
    """One run folder, read. Equal for equal folders; nothing is computed here but what its rows say."""

    path: Path
    env: str
    preset: str
    options: dict[str, Any]  # every option by its flag's name, the algorithm's among them; and the algorithm
    engine: dict[str, Any]
    machine: dict[str, Any]
    rows: dict[str, list[Row]]  # by kind, each in the order of env steps
    notes: tuple[str, ...]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.options["seed"])

    @property
    def evaluations(self) -> dict[int, float]:
        """The mean return of each evaluation, by env steps. Of two at the same step the later counts."""
        return {row["env_steps"]: float(row["return_mean"]) for row in self.rows["evaluation"]}

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
        """Whether its last evaluation stands at the end that was asked for."""
        return max(self.evaluations, default=0) >= int(self.options["steps"])

    @property
    def random_returns(self) -> list[float]:
        """Returns of the training episodes that ended while all actions were still uniformly random."""
        return [float(row["return"]) for row in self.rows["episode"] if row["env_steps"] <= self._random_steps]

    @property
    def untrained_returns(self) -> list[float]:
        """Mean returns of the evaluations before the first update."""
        return [value for step, value in self.evaluations.items() if step <= self._random_steps]

    @property
    def _random_steps(self) -> int:
        return int(self.options.get("random_steps", 0))


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
        RunRefused: config.json is damaged, a line of metrics.jsonl is not what it should be, or metrics.jsonl is not
            what a checkpoint vouches for; or one of the files is a link. The message names it.
    """
    # A stranger's link could bring another file of this machine into a page that is then shown around.
    sealed.refuse_links(*(folder / name for name in _READ))
    config = _config(folder / "config.json")
    # The checkpoint first: a run that goes on meanwhile only appends.
    vouched = _vouched(folder / "checkpoints")
    rows, notes = _metrics(folder / "metrics.jsonl", vouched)
    fields = dict(config["config"])
    options = {**fields, **fields.pop("td3")}
    options.pop("td3")
    options["algorithm"] = config["algorithm"]
    return Run(
        path=folder,
        env=config["env"],
        preset=config["preset"],
        options=options,
        engine=_a_dict(config.get("engine")),
        machine=_a_dict(config.get("machine")),
        rows=rows,
        notes=tuple(notes),
    )


def _a_dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _mend(folder: Path) -> str:
    return f"t3d resume {folder}: what has a copy is mended; or copy the run again"


def _config(path: Path) -> dict[str, Any]:
    try:
        content = sealed.unseal(path)
    except RunRefused as error:
        raise RunRefused(error.what, **error.rows | {"do": _mend(path.parent)}) from error
    try:
        json.dumps(content, allow_nan=False)
        fields = content["config"]
        content.setdefault("algorithm", "TD3")  # runs begun before it was recorded
        for name in ("env", "preset", "algorithm"):
            if not isinstance(content[name], str):
                raise TypeError(f"{name} = {content[name]!r}")
        for name in ("seed", "steps"):
            if not _is_count(fields[name]):
                raise TypeError(f"{name} = {fields[name]!r}")
        if not isinstance(fields["td3"], dict) or not _is_count(fields.get("random_steps", 0)):
            raise TypeError("td3 or random_steps")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunRefused(
            "config.json cannot be read", got=f"{path}: {error!r}", do="use the version of t3d that wrote it"
        ) from error
    return content


class _Vouched(NamedTuple):
    """What the newest checkpoint that can be read says of metrics.jsonl."""

    number: int
    length: int  # bytes, from the file's beginning
    sha256: str
    manifest: Path


def _vouched(checkpoints: Path) -> _Vouched | None:
    found = []
    for manifest in itertools.islice(checkpoints.glob("*/manifest.json"), _MAX_CHECKPOINTS):
        try:
            facts = sealed.unseal(manifest)
            metrics = facts["metrics"]
            vouched = _Vouched(
                sealed.whole(facts["number"]), sealed.whole(metrics["bytes"]), str(metrics["sha256"]), manifest
            )
        except (RunRefused, OSError, KeyError, TypeError, ValueError):
            continue  # damaged or just removed; a note tells of rows that no other one vouches for
        if manifest.parent.suffix != ".new":  # begun, and not committed
            found.append(vouched)
    return max(found, default=None)


def _metrics(path: Path, vouched: _Vouched | None) -> tuple[dict[str, list[Row]], list[str]]:
    rows: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    notes, unknown = [], set()
    sure = vouched.length if vouched else 0
    sha256, position, unsure = hashlib.sha256(), 0, 0
    length = path.stat().st_size if path.is_file() else 0
    # However long a file of nothing says it is, its first line is refused.
    for number, line in enumerate(sealed.lines(path, length), 1):
        sha256.update(line[: max(0, sure - position)])
        position += len(line)
        try:
            row = _row(line)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            # A line is whole once its newline is written; only the last can lack it.
            if not line.endswith(b"\n") and len(line) < sealed.MAX_LINE_BYTES:
                notes.append(f"The last line of metrics.jsonl, line {number}, is half written and left out.")
                break
            raise RunRefused(
                "a line of metrics.jsonl is malformed",
                got=f"{path}, line {number}: {error!r}",
                do="repair or delete it" if position > sure else _mend(path.parent),
            ) from error
        unsure += position > sure
        if row["kind"] in rows:
            rows[row["kind"]].append(row)
        else:
            unknown.add(row["kind"])
    if vouched:
        sealed.refuse_another(
            path,
            position,
            sha256.hexdigest(),
            vouched.length,
            vouched.sha256,
            by=vouched.manifest,
            do=_mend(path.parent),
        )
    if unknown:
        notes.append(f"metrics.jsonl has rows of a kind unknown here, left out: {', '.join(sorted(unknown))}.")
    if not vouched:
        notes.append("No checkpoint vouches for metrics.jsonl: had a number in it changed, nothing would tell.")
    elif unsure:
        notes.append(
            f"Rows of metrics.jsonl newer than the newest checkpoint, which no checksum holds yet: {unsure:,}."
        )
    for of_kind in rows.values():
        of_kind.sort(key=lambda row: row["env_steps"])
    return rows, notes


def _row(line: bytes) -> Row:
    row: Row = json.loads(line, parse_constant=sealed.refuse_constant)
    if not isinstance(row, dict) or not isinstance(row["kind"], str):
        raise TypeError("not an object with a kind")
    if not _is_count(row["env_steps"]):
        raise TypeError(f"env_steps = {row['env_steps']!r}")
    for name in ("wall_s", *_NUMBERS.get(row["kind"], ())):
        if not is_number(row[name]):
            raise TypeError(f"{name} = {row[name]!r}")
    return row


def _is_count(value: object) -> bool:
    # Beyond 2**53 a browser's numbers have gaps.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def is_number(value: object) -> bool:
    """Return whether a value from a file is a finite number that fits into a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
