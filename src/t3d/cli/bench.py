"""`t3d bench`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from t3d import presets
from t3d.cli.environment import EnvArguments
from t3d.cli.parsing import counted, decisive, parse
from t3d.config import Config
from t3d.errors import ConfigRefused

if TYPE_CHECKING:
    from t3d.bench import Timing
    from t3d.spaces import Spaces


@dataclass(frozen=True, kw_only=True)
class Arguments(EnvArguments):
    """Measure how fast t3d trains here, updates and the training loop; or how long a policy takes to answer."""

    env: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")] = None
    """As for t3d train; HalfCheetah-v5 if neither this nor --sizes is given."""
    sizes: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="OBS ACTION")] = None
    """Lengths of observations and actions, in place of an environment: updates only, no training."""
    policy: Annotated[Path | None, tyro.conf.arg(metavar="RUN|FILE")] = None
    """A run folder or a policy's file, in place of an environment: time 10,000 calls with one observation each, alone
    and with the other cores busy."""
    preset: str | None = None
    """Named set of options; the environment's own if left out."""
    json: bool = False
    """Print one JSON object and nothing else."""
    config: Config = field(default_factory=Config)
    """Options of the run."""


def main(arguments: list[str]) -> None:
    """Measure and print."""
    given = parse(Arguments, "bench", arguments)
    _refuse_impossible(given)
    if given.policy:
        _print_latency(given.policy, as_json=given.json)
        return
    env = given.spec("" if given.sizes else given.env or "HalfCheetah-v5")
    from t3d import api

    choose = presets.choose if given.sizes else api.choose
    chosen = choose(env, given.preset, decisive(given.config))
    args = parse(Arguments, "bench", arguments, dataclasses.replace(given, config=chosen.config))

    from t3d.bench import bench
    from t3d.machine import describe
    from t3d.spaces import Spaces

    seen = bench(Spaces.of_vectors(*given.sizes) if given.sizes else env, args.config)
    sizes = {"obs_size": seen.spaces.seen_size, "action_size": seen.spaces.action_size}
    if args.json:
        values = seen._asdict()
        del values["spaces"]
        answer = {
            **values,
            **sizes,
            "config": dataclasses.asdict(seen.config),
            "timings": {timing.engine: flat(timing) for timing in seen.timings},
            "machine": describe(),
        }
        print(json.dumps(answer))
        return

    from rich.console import Console
    from rich.table import Table

    title = f"{seen.env or 'given sizes'}: {_sizes_in_words(seen.spaces)}"
    table = Table(box=None, title=title)
    headings = ["engine", "threads", "update ms", "p10-p90"]
    for heading in [*headings, "env steps/s", "env µs", "around µs"] if seen.env else headings:
        # Where the terminal is narrow, headings take two lines and no number is cut.
        table.add_column(heading, justify="right", no_wrap=heading == "p10-p90")
    for t in seen.timings:
        spread = f"{t.update_ms_p10:.3f}-{t.update_ms_p90:.3f}"
        cells = [t.engine, str(t.threads), f"{t.update_ms:.3f}", spread]
        if t.loop:
            cells += [f"{t.loop.train_steps_per_s:,.0f}", f"{t.loop.env_us:.0f}", f"{t.loop.around_us:.0f}"]
        table.add_row(*cells)
    console = Console()
    console.print(table)
    console.print(f"replay {seen.replay_bytes_per_slot} bytes a slot, {seen.replay_full_bytes / 1e6:,.0f} MB when full")


def _refuse_impossible(given: Arguments) -> None:
    what = {"ENV": given.env, "--sizes": given.sizes, "--policy": given.policy}
    if len(asked := [name for name, value in what.items() if value]) > 1:
        raise ConfigRefused(
            "several things were given to measure",
            got=" and ".join(asked),
            expected="one of them",
            do="leave the others out",
        )
    if given.sizes and min(given.sizes) < 1:
        raise ConfigRefused(
            "sizes below 1",
            got=f"--sizes {given.sizes[0]} {given.sizes[1]}",
            expected="1 or more each",
            do="raise them",
        )


def _print_latency(path: Path, *, as_json: bool) -> None:
    from t3d.machine import describe
    from t3d.policy.latency import CALLS, measure, others_busy
    from t3d.policy.policy import load

    policy = load(path)
    alone = measure(policy)
    with others_busy() as others:
        busy = measure(policy)
    if as_json:
        seen = {"alone": alone._asdict(), "busy": busy._asdict(), "busy_cores": others, "calls": CALLS}
        print(json.dumps({"policy": str(path), **seen, "machine": describe()}))
        return
    print(f"{policy.info.env}: {_sizes_in_words(policy.info.spaces)}; {CALLS:,} calls with one observation each")
    for name, seen_us in (("alone", alone), (f"{counted(others, 'other core')} busy", busy)):
        median, p99, worst = (f"{value:,.0f} µs" for value in seen_us)
        print(f"  {name:<20}median {median}, 99th percentile {p99}, worst {worst}")


def _sizes_in_words(spaces: Spaces) -> str:
    return f"{spaces.sight_in_words}, {counted(spaces.action_size, 'action')}"


def flat(timing: Timing) -> dict[str, object]:
    """Return a timing as JSON shows it: the loop's figures beside the others, absent where nothing was trained."""
    values = timing._asdict()
    loop = values.pop("loop")
    return values | (loop._asdict() if loop else {})
