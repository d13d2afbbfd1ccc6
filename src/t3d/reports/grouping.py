"""Put runs into groups that differ in their seed alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t3d.config import IDLE
from t3d.errors import ConfigRefused, RunRefused
from t3d.reports.read_runs import SPANS, Run

if TYPE_CHECKING:  # SciPy takes a second to import
    from t3d.reports.statistics import Floats

# Runs of a group may differ in these.
_FREE = IDLE | {"seed"}
# What a curve may be of.
EVALUATIONS, EPISODES = "evaluations", "training episodes"


@dataclass(frozen=True)
class Group:
    """Runs of one environment, one preset and equal options, each with a seed of its own."""

    env: str
    label: str  # preset, and what sets the group apart from others of its environment
    differing: dict[str, Any]  # the options that set it apart from those with the same preset
    runs: tuple[Run, ...]  # in the order of their seeds; those with at least one point of a curve
    env_steps: tuple[int, ...]  # where every run has a point of its curve
    measured: str  # what the returns are of: evaluations, or training episodes
    returns: Floats  # (n, P), the mean returns there
    notes: tuple[str, ...]

    @property
    def action_repeat(self) -> int:
        """Frames of the environment that an env step is: of all its runs, as of every option."""
        return self.runs[0].action_repeat

    @property
    def frames(self) -> tuple[int, ...]:
        """Where every run has a point of its curve, in frames: what groups of different action repeats share."""
        return tuple(step * self.action_repeat for step in self.env_steps)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group runs by environment, preset and every option but the seed and those that change no number.

    Where that would put two runs of one seed together, the folder that holds them sets them apart.

    Raises:
        RunRefused: two runs beside each other have equal options and the same seed, or no run has an evaluation yet.
    """
    by_options: dict[str, list[Run]] = {}
    for run in runs:
        by_options.setdefault(_key(run), []).append(run)
    split: list[tuple[list[Run], str]] = []
    for together in by_options.values():
        split += _by_folder(together) if _repeated(together) else [(together, "")]
    groups = [_group(members, folder, [name for name, _ in split]) for members, folder in split]
    evaluated = [group for group in groups if group.runs]
    if not evaluated:
        raise RunRefused(
            "there is nothing to report yet",
            got="no evaluation in " + ", ".join(str(run.path) for run in runs),
            do="wait for the first evaluation",
        )
    return evaluated


def name_groups(groups: Sequence[Group], names: Sequence[str]) -> list[Group]:
    """Give groups other labels, in the order in which they are shown; of one label in several environments one name.

    Raises:
        ConfigRefused: there are more or fewer names than labels, or two are the same.
    """
    found = list(dict.fromkeys(group.label for group in groups))
    if len(set(names)) != len(found) or len(names) != len(found):
        raise ConfigRefused(
            "a name for each group is needed, and no two the same",
            got=f"--label {' '.join(map(repr, names))}",
            expected=f"{len(found)} names, for: {'; '.join(found)}",
            do="give them in this order, behind one --label",
        )
    named = dict(zip(found, names, strict=True))
    return [replace(group, label=named[group.label]) for group in groups]


def labels(runs: Sequence[Run]) -> list[str]:
    """Return of each run how its group is called, whether or not there is anything to report of it yet."""
    firsts = list({_key(run): run for run in reversed(runs)}.values())
    return [_label(run, _differing(run, firsts)) for run in runs]


def _key(run: Run) -> str:
    options = {name: value for name, value in run.options.items() if name not in _FREE}
    return json.dumps([run.env, run.preset, options], sort_keys=True)


def _repeated(runs: Sequence[Run]) -> list[int]:
    return [seed for seed, count in Counter(run.seed for run in runs).items() if count > 1]


def _by_folder(runs: list[Run]) -> list[tuple[list[Run], str]]:
    folders: dict[Path, list[Run]] = {}
    for run in runs:
        folders.setdefault(run.path.resolve().parent, []).append(run)
    for inside in folders.values():
        if seeds := _repeated(inside):
            raise RunRefused(
                "two runs have equal options and the same seed, so they are not independent",
                got=", ".join(str(run.path) for run in inside if run.seed == seeds[0]),
                expected="one run of each seed",
                do="name only one of them",
            )
    return [(inside, folder.name) for folder, inside in folders.items()]


def _group(members: list[Run], folder: str, every: list[list[Run]]) -> Group:
    first = members[0]
    differing = _differing(first, [group[0] for group in every])
    label = _label(first, differing)
    runs = sorted((run for run in members if run.curve), key=lambda run: run.seed)
    notes = [f"Seed {run.seed} has no evaluation yet and is in no number." for run in members if not run.curve]
    common = set.intersection(*(set(run.curve) for run in runs)) if runs else set()
    env_steps = tuple(sorted(common))
    early = [run for run in runs if not run.finished]
    if early and len(early) < len(runs):
        which = ", ".join(f"seed {run.seed} at {max(run.curve):,}" for run in early)
        notes.append(f"Not every run came to its end ({which}): the numbers are those up to where all have come.")
    elif early:
        notes.append(f"No run has come to its end of {early[0].options['steps']:,} steps yet.")
    if runs and not env_steps:
        raise RunRefused(
            "these runs were never evaluated at the same step",
            got=", ".join(str(run.path) for run in runs),
            do="report on them one by one",
        )
    if any("policy" in row for run in runs for row in run.rows["evaluation"]):
        notes.append(
            "Each evaluation played two policies, the current one and the checkpoint; shown is the better of the two, "
            "which flatters each of them a little."
        )
    if any("due" in row for run in runs for row in run.rows["evaluation"]):
        notes.append("Evaluations are shown where they were due; each waited for the end of the episode it fell in.")
    returns = np.array([[run.curve[step] for step in env_steps] for run in runs])
    if not first.is_evaluated:
        notes.append(
            "There were no evaluations, as asked: returns are those of training episodes, played with exploration "
            f"noise by a policy that was learning, a mean for each of {SPANS} parts of the run. "
            "They are compared with no evaluation."
        )
    return Group(
        env=first.env,
        label=f"{label} ({folder})" if folder else label,
        differing=differing,
        runs=tuple(runs),
        env_steps=env_steps,
        measured=EVALUATIONS if first.is_evaluated else EPISODES,
        returns=returns,
        notes=tuple(notes),
    )


def _differing(run: Run, others: Sequence[Run]) -> dict[str, Any]:
    """Return the options that set a run apart from others in its environment with its preset."""
    alike = [other for other in others if (other.env, other.preset) == (run.env, run.preset)]
    return {
        name: value
        for name, value in run.options.items()
        if name not in _FREE and any(other.options.get(name) != value for other in alike)
    }


def _label(run: Run, differing: dict[str, Any]) -> str:
    return ", ".join([run.preset, *(f"{name} {shown(value)}" for name, value in differing.items())])


def shown(value: object) -> str:
    """Write an option's value."""
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)
