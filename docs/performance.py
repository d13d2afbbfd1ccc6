"""Turn what the benchmarks of the engine measured into the tables of docs/performance.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
RESULTS = DOCS.parent / "benchmarks" / "results"


def _read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def engine() -> str:
    """Return the table of floors, updates and what is around them."""
    rows = []
    for name, job in _read("engine")["jobs"].items():
        for kind, t in job["timings"].items():
            times = [f"{job['floor_ms']:.3f}", f"{t['update_ms']:.3f}", f"{t['over_floor']:.2f}x"]
            loop = [f"{t['env_us']:.0f}", f"{t['around_us']:.0f}", f"{t['train_steps_per_s']:,.0f}"]
            rows.append([name, kind, *times, *loop])
    head = ["job", "engine", "floor, ms", "update, ms", "over the floor", "env, µs", "around, µs", "env steps/s"]
    return _table(head, rows)


def profile() -> str:
    """Return a table a job: where a second goes, before and after."""
    labels = _read("profile")
    parts = []
    for job in labels["after"]["jobs"]:
        before, after = (labels[label]["jobs"][job] for label in ("before", "after"))
        rows = [["env steps", f"{before['env_steps']:,.0f}", f"{after['env_steps']:,.0f}", "", ""]]
        for name in [name for name in after if name not in ("env_steps", "threads")]:
            a_step = [f"{1e3 * seen.get(name, 0) / seen['env_steps']:.1f}" for seen in (before, after)]
            rows.append([f"{name}, ms", f"{before.get(name, 0):.0f}", f"{after[name]:.0f}", *a_step])
        head = ["in one second", "before", "after", "before, µs a step", "after, µs a step"]
        parts.append(f"{job}, {after['threads']:.0f} thread(s):\n\n{_table(head, rows)}")
    return "\n".join(parts)


def threads() -> str:
    """Return the table of one thread against two."""
    rows = [
        [
            f"{r['width']}-{r['width']}",
            str(r["batch"]),
            f"{r['multiply_adds'] / 1e6:.1f}",
            f"{r['ms_1']:.3f}",
            f"{r['ms_2']:.3f}",
            f"{r['gain']:.2f}x",
        ]
        for r in _read("threads")["rows"]
    ]
    return _table(["hidden", "batch", "million multiply-adds", "1 thread, ms", "2 threads, ms", "gain"], rows)


def drift() -> str:
    """Return the table of distances between engines on recorded batches."""
    found = _read("drift")["relative_distance"]
    counts = [count for count in next(iter(found["none"].values())) if count.isdigit()]
    rows = [
        [layer_norm, pair, *(f"{seen[name]:.1e}" for name in (*counts, "largest", "losses"))]
        for layer_norm, pairs in found.items()
        for pair, seen in pairs.items()
    ]
    head = [
        "layer norm",
        "whose weights",
        *(f"after {int(count):,}" for count in counts),
        "farthest",
        "losses, farthest",
    ]
    return _table(head, rows)


def cold() -> str:
    """Return the table of parts right behind an update, and once more."""
    rows = [
        [job, part, *(f"{call:.1f}" for call in calls)]
        for job, parts in _read("cold")["microseconds"].items()
        for part, calls in parts.items()
    ]
    return _table(["job", "part", "right behind an update, µs", "again, µs", "once more, µs"], rows)


def small() -> str:
    """Return the table of what helping takes, and of a full memory beside Stable-Baselines3's."""
    seen = _read("small")
    peer = _read("peers")["jobs"]["halfcheetah"]["libraries"]["stable-baselines3"]["replay_bytes_per_row"]
    replay = seen["replay"]
    rows = [
        [f"`{name}`, median of {len(times['all'])} processes", f"{times['median']:.2f} s", "below 0.3 s"]
        for name, times in seen["help_s"].items()
    ]
    measured = f"{replay['bytes_a_transition']:.1f}, {replay['bytes_a_transition'] / peer:.2f}x the peer's {peer:.0f}"
    what = f"HalfCheetah-v5's memory, {replay['slots']:,} slots, full: resident bytes a transition"
    rows.append([what, measured, "at most 0.4x"])
    return _table(["what", "measured", "wanted"], rows)


def bursts() -> str:
    """Return the table of drawn batches and bursts against the tree before."""
    rows = []
    for job, seen in _read("bursts")["jobs"].items():
        for clock in [clock for clock in ("wall", "processor") if clock in seen]:
            a_step, ratios = seen[clock]["us_a_step"], seen[clock]["times_as_fast"]
            times = [f"{ratios[way][1]:.2f} ({ratios[way][0]:.2f} to {ratios[way][2]:.2f})" for way in ratios]
            rows.append([job, clock, *(f"{us:,.0f}" for us in a_step.values()), *times])
    head = ["job", "clock", "before, µs a step", "step, µs", "episode, µs", "step: times as fast", "episode"]
    return _table(head, rows)


def engine_td7() -> str:
    """Return the table of td7's updates beside td3's and beside their products."""
    rows = [
        [
            r["job"],
            str(r["threads"]),
            f"{r['multiply_adds'] / 1e6:,.0f}",
            f"{r['processor_ms']:.2f}",
            f"{r['over_products']:.2f}x" if "over_products" in r else "",
            f"{r['over_td3']:.2f}x",
        ]
        for r in _read("engine_td7")["rows"]
    ]
    return _table(["job", "threads", "million multiply-adds", "update, ms", "over its products", "over td3"], rows)


def drift_td7() -> str:
    """Return the table of distances between engines of td7."""
    seen = _read("engine_td7")["relative_distance"]
    rows = [[pair, *(f"{distance:.1e}" for distance in distances.values())] for pair, distances in seen.items()]
    return _table(["whose weights", *(f"after {count}" for count in next(iter(seen.values())))], rows)


TABLES = {
    "engine": engine,
    "engine_td7": engine_td7,
    "profile": profile,
    "threads": threads,
    "drift": drift,
    "drift_td7": drift_td7,
    "cold": cold,
    "bursts": bursts,
    "small": small,
}
