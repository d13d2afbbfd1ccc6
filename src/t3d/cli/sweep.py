"""`t3d sweep`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from t3d.cli.algorithm import own_in
from t3d.cli.environment import EnvArguments
from t3d.cli.parsing import counted, parse
from t3d.errors import ConfigRefused
from t3d.tuning.axes import split

if TYPE_CHECKING:
    from t3d.td3 import TD3

MOST_RUNS = 1_000  # without --yes


@dataclass(frozen=True, kw_only=True)
class Arguments(EnvArguments):
    """Train every combination of some options' values, some seeds each, and compare them on one page.

    Behind ENV stand options of `t3d train` with commas between their values: --lr 1e-4,3e-4 --tau 0.005,0.01.
    A value that is a list is written as JSON: --hidden [256,256],[400,300]. Presets and algorithms may be among them:
    --preset td3,course. The same command goes on with what it began.
    """

    env: tyro.conf.Positional[str]
    """A registered id, module:Name, or path/to/file.py:Name, as for `t3d train`."""
    seeds: int = 3
    """Seeds of each combination, from --seed on."""
    jobs: int | None = None
    """How many runs at a time; as many as this process may use cores if left out."""
    out: Path | None = None
    """The folder of the runs; runs/ENV/sweep-HASH if left out, with the same hash for the same grid."""
    on: str = "local"
    """Where: local; ray, a cluster that is started here; or ray:HOST:PORT, one that this machine is one of."""
    yes: bool = False
    """Train more than 1,000 runs."""


def main(arguments: list[str]) -> None:
    """Train the grid, showing progress on stderr, and print where the report is."""
    algorithm, arguments = own_in(arguments)
    own = [field.name for field in dataclasses.fields(Arguments)]
    axes, rest = split(arguments, own)
    args = parse(Arguments, "sweep", rest)

    from t3d import api
    from t3d.cli.seeds import Lines, refuse_unfinished
    from t3d.reports import write_report
    from t3d.tuning import grid

    env = args.spec(args.env)
    for name in ("seeds", "jobs"):
        if (count := getattr(args, name)) is not None:
            api.refuse_below_one(name, count)
    if not axes:
        raise ConfigRefused(
            "this is no grid: no option was named", expected="--lr 1e-4,3e-4", do="t3d train trains one configuration"
        )
    combined = grid.combine(axes, lambda preset, values: api.choose(env, preset, values))
    runs = len(combined.points) * args.seeds
    if runs > MOST_RUNS and not args.yes:
        raise ConfigRefused(
            "this grid is large",
            got=f"{counted(len(combined.points), 'configuration')}, {counted(args.seeds, 'seed')} each: {runs:,} runs",
            expected=f"at most {MOST_RUNS:,} runs",
            do="name fewer values, or add --yes",
        )
    parent = args.out or Path("runs") / env.folder / f"sweep-{_hash(axes, algorithm)}"
    jobs, here = min(api.side_by_side(args.jobs, runs, point.choice.config, args.on) for point in combined.points)
    planned = api.plan_grid(env, combined, args.seeds, here, parent, algorithm)
    print(_opening(env.title, combined, args.seeds, jobs, parent), file=sys.stderr)
    with Lines(max(point.choice.config.steps for point in combined.points), "run") as lines:
        ended = api.train_jobs(planned, jobs, lines.show, args.on)
    for run in ended:
        if run.problem:
            print(f"{run.path.name} stopped after {run.env_steps:,} steps: {run.problem}")
    refuse_unfinished(ended, "run", "the same command goes on with them")
    print(api.best_of_grid([parent]))
    print(f"folder      {parent}\nreport      {write_report([parent])}")


def _opening(env: str, combined: Any, seeds: int, jobs: int, parent: Path) -> str:
    left_out = f"; {combined.equal} of the grid come to the same as others" if combined.equal else ""
    return (
        f"{env}: {counted(len(combined.points), 'configuration')}{left_out}, {counted(seeds, 'seed')} each, "
        f"{jobs} at a time\nfolder {parent}"
    )


def _hash(axes: dict[str, list[Any]], algorithm: type[TD3] | None) -> str:
    """Return what names a grid: equal for the same values in any order of the flags, whatever number of seeds."""
    return hashlib.sha256(json.dumps([axes, algorithm and algorithm.__name__], sort_keys=True).encode()).hexdigest()[:8]
