"""`t3d bench`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from t3d import presets
from t3d.cli.parsing import parse
from t3d.config import Config


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure how fast t3d trains here: updates, the training loop, and how far both are from the machine's limit."""

    env: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")] = "HalfCheetah-v5"
    """A registered id, module:Id, or path/to/file.py:Class."""
    preset: str | None = None
    """Named set of options; the environment's own if left out."""
    json: bool = False
    """Print one JSON object and nothing else."""
    config: Config = field(default_factory=Config)
    """Options of the run."""


def main(arguments: list[str]) -> None:
    """Measure and print."""
    asked = parse(Arguments, "bench", arguments)
    chosen = presets.choose(asked.env, asked.preset)
    args = parse(Arguments, "bench", arguments, dataclasses.replace(asked, config=chosen.config))

    from t3d.benching import bench
    from t3d.machine import describe

    seen = bench(args.env, args.config)
    if args.json:
        answer = {
            **seen._asdict(),
            "config": dataclasses.asdict(seen.config),
            "timings": {timing.engine: timing._asdict() for timing in seen.timings},
            "machine": describe(),
        }
        print(json.dumps(answer))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, title=f"{seen.env}: {seen.obs_size} observations, {seen.action_size} actions")
    for heading in ("engine", "threads", "update ms", "over the floor", "env steps/s", "env µs", "around µs"):
        table.add_column(heading, justify="right")
    for t in seen.timings:
        cells = (f"{t.update_ms:.3f}", f"{t.over_floor:.2f}x", f"{t.train_steps_per_s:,.0f}")
        table.add_row(t.engine, str(t.threads), *cells, f"{t.env_us:.0f}", f"{t.around_us:.0f}")
    console = Console()
    console.print(table)
    console.print(
        f"floor {seen.floor_ms:.3f} ms: the matrix products that one update cannot do without\n"
        f"replay {seen.replay_bytes_per_slot} bytes a slot, {seen.replay_full_bytes / 1e6:,.0f} MB when full"
    )
