"""What is each idea of TD3 for? Train it without one of them, seven times, and look at the number that should suffer.

    python examples/without/train.py

Eight times five runs of Pendulum, within an hour on two cores; run it again to go on. What was measured is written to
results.json beside this file, and the page README.md is made from that.
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from ideas import IDEAS

import t3d
from t3d.machine import describe
from t3d.reports import write_report
from t3d.reports.statistics import compare, mean

HERE = Path(__file__).parent
ENV = "Pendulum-v1"
# What is measured, each in the second half of a run.
MEASURES = {
    "return": "mean return of the evaluations; more is better",
    "bias": "how much more the first critic promises of a state than is obtained: `q1_bias`",
    "spread": "how far the mean target jumps from one log line to the next: standard deviation of these differences",
    "loss": "the critics' loss",
}


def main(
    out: Path = Path("runs/without"),
    steps: int = 20_000,
    seeds: int = 5,
    jobs: int = 2,
    results: Path = HERE / "results.json",
    page: Path = HERE / "README.md",
) -> None:
    """Train TD3, and TD3 without each of its ideas; go on where this was stopped; write what was measured."""
    runs = {}
    for key, idea in IDEAS.items():
        arguments: dict[str, Any] = {"out": out / key, "resume": "auto", "jobs": jobs, "steps": steps, **idea.options}
        often = {"eval_every": max(1, steps // 20), "log_every": max(1, steps // 100)}
        trained = t3d.train(ENV, seeds=seeds, threads=1, **often, **arguments)
        runs[key] = measure(trained.path, steps)
        print(f"TD3 {idea.name}: return {np.mean(runs[key]['return']):,.0f}", flush=True)
    measured = {"env": ENV, "steps": steps, "seeds": seeds, "machine": describe(), "runs": runs}
    results.write_text(json.dumps(measured, indent=1) + "\n")
    page.write_text(page_of(measured))
    print(f"report      {write_report([out / key for key in IDEAS], out / 'report.html')}")


def measure(folder: Path, steps: int) -> dict[str, list[float]]:
    """Return each measure of the runs in a folder, one number a seed."""
    seen = t3d.read(folder)
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for seed in np.unique(seen.evaluations["seed"]):
        late = [
            {name: column[(rows["seed"] == seed) & (rows["env_steps"] > steps / 2)] for name, column in rows.items()}
            for rows in (seen.evaluations, seen.health, seen.losses)
        ]
        evaluations, health, losses = late
        found["return"].append(float(evaluations["return_mean"].mean()))
        found["bias"].append(float(np.nanmean(health["q1_bias"])))
        found["spread"].append(float(np.diff(losses["target_q"]).std()))
        found["loss"].append(float(losses["critic_loss"].mean()))
    return found


def page_of(measured: dict[str, Any]) -> str:
    """Return the page about what was measured."""
    runs, seeds = measured["runs"], measured["seeds"]
    lines = [
        "# TD3 without one of its ideas",
        "",
        "What is each idea of TD3 for? Leave it out, and look at the number that should suffer. Each of the seven",
        "changes in [`ideas.py`](ideas.py) is an option, a subclass or a wrapper. The runs and this page are made by",
        "`python examples/without/train.py`, the page from [`results.json`](results.json).",
        "",
        f"{measured['env']}, {measured['steps']:,} steps, {seeds} seeds each. Numbers are means over the second half",
        "of a run, then over seeds, with their 95 % interval (Student's t).",
        "",
        "| TD3 | step | what should suffer, and why | as it is | changed | seen? |",
        "|---|---|---|---:|---:|---|",
    ]
    for key, idea in list(IDEAS.items())[1:]:
        before, after, seen = _compared(measured, key)
        lines.append(f"| {idea.name} | {idea.steps} | {idea.suffers}: {idea.why} | {before} | {after} | {seen} |")
    lines += ["", "All that was measured:", "", f"| | {' | '.join(MEASURES)} |", f"|---|{'---:|' * len(MEASURES)}"]
    for key, idea in IDEAS.items():
        lines.append(f"| {idea.name} | {' | '.join(_shown(runs[key][name]) for name in MEASURES)} |")
    lines += ["", *(f"* **{name}**: {what}" for name, what in MEASURES.items()), ""]
    lines += [
        "A pendulum is a small task: one action, a reward at every step, no state that is hard to reach. Where nothing",
        "was seen here, the idea may still matter on a robot. Seen is what Welch's test of two groups of seeds calls,",
        "p < 0.05, of the one measure that was named before. Of seven such tests with nothing behind them, one or more",
        "would find something in three studies of ten.",
        "",
    ]
    return "\n".join(lines)


def sentence(measured: dict[str, Any], key: str) -> str:
    """Return what was measured without an idea, in one sentence."""
    idea, (before, after, seen) = IDEAS[key], _compared(measured, key)
    where = f"Measured in {measured['env']}, {measured['seeds']} seeds each"
    return f"{where}: {idea.suffers} {after} {idea.name}, and {before} in TD3 as it is; {seen}."


def _compared(measured: dict[str, Any], key: str) -> tuple[str, str, str]:
    """Return the measure that should suffer with TD3 and without the idea, and whether a difference was seen."""
    suffers = IDEAS[key].suffers
    before, after = measured["runs"]["td3"][suffers], measured["runs"][key][suffers]
    seen = _seen(before, after, worse="lower" if suffers == "return" else "higher")
    return _shown(before), _shown(after), seen


def _shown(values: list[float]) -> str:
    band = mean(np.array(values)[:, None])
    digits = 0 if abs(band.value[0]) >= 100 else 1 if abs(band.value[0]) >= 10 else 2
    if band.low is None or band.high is None:
        return f"{band.value[0]:,.{digits}f}"
    return f"{band.value[0]:,.{digits}f} ({band.low[0]:,.{digits}f} to {band.high[0]:,.{digits}f})"


def _seen(before: list[float], after: list[float], worse: Literal["lower", "higher"]) -> str:
    found = compare(after, before)
    if not found.called or found.p_value is None:
        return "no difference was seen"
    is_worse = (found.mean.value < 0) == (worse == "lower")
    return f"{'seen' if is_worse else '**the opposite was seen**'}, p = {found.p_value:.2g}"


if __name__ == "__main__":
    tyro.cli(main)
