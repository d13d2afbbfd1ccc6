"""The tables of the README and of docs/, each made from what a script of benchmarks/ measured, or from the source."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

from t3d.diagnosis import hints
from t3d.reports import charts

DOCS = Path(__file__).resolve().parent
SOURCE = DOCS.parent / "src" / "t3d"
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
RESULTS = BENCHMARKS / "results"
WITHOUT = DOCS.parent / "examples" / "without"


@functools.cache
def benchmark(name: str) -> Any:
    """Return a script of benchmarks/ as a module."""
    return _script(BENCHMARKS / f"{name}.py")


@functools.cache
def without() -> tuple[Any, dict[str, Any]]:
    """Return examples/without/train.py as a module, and what it measured."""
    sys.path.insert(0, str(WITHOUT))
    try:
        return _script(WITHOUT / "train.py"), json.loads((WITHOUT / "results.json").read_text("utf-8"))
    finally:
        sys.path.remove(str(WITHOUT))


def _script(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def checkpoints_table() -> str:
    """Return what a checkpoint costs, by the size of the replay memory."""
    measured = json.loads((RESULTS / "checkpoints.json").read_text("utf-8"))
    machine = measured["machine"]
    lines = [
        "| transitions in the memory | training stands still, median | worst of 9 | written | back in training after |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['replay_steps']:,} | {row['commit_ms']:.0f} ms | {row['commit_ms_worst']:.0f} ms "
        f"| {row['written_mb']:.1f} MB | {row['resume_s']:.2f} s |"
        for row in measured["rows"]
    ]
    lines += [
        "",
        f"{measured['env']}, two hidden layers of 256, 10,000 new steps a checkpoint; at the end "
        f"metrics.jsonl has {measured['rows'][-1]['metrics_rows']:,} rows. Between checkpoints the loop's "
        f"clocks and flags take {measured['loop_us_per_step']:.1f} µs per env step. {machine['processor']}, "
        f"{machine['cores']} cores; [`benchmarks/checkpoints.py`](../benchmarks/checkpoints.py) measures it anew.",
    ]
    return "\n".join(lines) + "\n"


def safety_table() -> str:
    """Return how soon what goes wrong is told: workers that die or hang, folders from strangers."""
    workers = json.loads((RESULTS / "workers.json").read_text("utf-8"))["reports"]
    hostile = json.loads((RESULTS / "hostile.json").read_text("utf-8"))
    dies, hangs = workers["Dies"], workers["Hangs"]
    lines = [
        "| what | worst |",
        "|---|---:|",
        f"| a worker process is killed in a step: reported after | {1e3 * dies['late_s_worst_of_5']:.0f} ms |",
        f"| one does not answer, `--env-timeout {hangs['limit_s']:.0f}`: reported later than that by "
        f"| {1e3 * hangs['late_s_worst_of_5']:.0f} ms |",
        f"| {hostile['folders']} hostile run folders, opened {hostile['openings']:,} times and {hostile['refused']:,} "
        f"times refused: each within | {hostile['slowest_s']:.2f} s |",
        f"| the same, memory above the imports | {hostile['bytes_above_imports'] / 1e6:.0f} MB |",
        "",
        "[`benchmarks/workers.py`](../benchmarks/workers.py) and [`benchmarks/hostile.py`](../benchmarks/hostile.py) "
        "measure it anew.",
    ]
    return "\n".join(lines) + "\n"


def coverage_tables() -> str:
    """Return the tables of docs/statistics.md, from what benchmarks/interval_coverage.py simulated."""
    simulated = json.loads((RESULTS / "coverage.json").read_text("utf-8"))
    shapes = list(simulated["distributions"])
    parts = [
        f"* *{name}*: {told}" if name != told else f"* *{name}*" for name, told in simulated["distributions"].items()
    ]
    parts += ["", f"{simulated['studies']:,} studies each, the bootstrap with {simulated['resamples']:,} resamples."]
    for key, title in _SIMULATED.items():
        parts += ["", f"{title}:", "", f"| seeds | {' | '.join(shapes)} |", "|---" * (len(shapes) + 1) + "|"]
        for seeds, row in simulated["seeds"].items():
            parts.append(f"| {seeds} | " + " | ".join(f"{100 * row[key][name]:.1f} %" for name in shapes) + " |")
    return "\n".join(parts) + "\n"


_SIMULATED = {
    "mean": "The mean's 95 % t interval held the true mean in",
    "iqm": "The interquartile mean's 95 % bootstrap interval held the true one in",
    "false_positive": "Welch's test at 5 % told two groups of one distribution apart in",
    "improvement_beyond_half": "The interval of the probability of improvement left out 1/2 for two such groups in",
}


def peers_table() -> str:
    """Return how fast t3d and its peers train, as benchmarks/peers.py puts it."""
    table: str = benchmark("peers").table(json.loads((RESULTS / "peers.json").read_text("utf-8")))
    return table


def peers_images_table() -> str:
    """Return what images cost t3d and its peer, as benchmarks/peers.py puts it."""
    measured = json.loads((RESULTS / "peers_images.json").read_text("utf-8"))
    table: str = benchmark("peers").table_of_images(measured)
    return table


def outside_table() -> str:
    """Return how t3d did in environments of packages that nobody had tried."""
    table: str = benchmark("outside").as_table(json.loads((RESULTS / "outside.json").read_text("utf-8"))["rows"])
    return table + "\n"


def frames_table() -> str:
    """Return what a frame costs that is learned from with --pixels."""
    table: str = benchmark("frames").as_table(json.loads((RESULTS / "frames.json").read_text("utf-8")))
    return table


def cluster_table() -> str:
    """Return what a cluster costs beside processes of one machine."""
    table: str = benchmark("cluster").as_table(json.loads((RESULTS / "cluster.json").read_text("utf-8")))
    return table


def controllers_table() -> str:
    """Return how long a policy takes to answer, what a program takes to load it, and what exported ones reach."""
    table: str = benchmark("controllers").as_table(json.loads((RESULTS / "controllers.json").read_text("utf-8")))
    return table


def contents_table() -> str:
    """Return a link to each of the 15 steps, as docs/steps.md heads them."""
    page = (DOCS / "steps.md").read_text("utf-8")
    lines = ["| step | |", "|---:|---|"]
    for number, title in re.findall(r"^### Step (\d+): (.+)$", page, re.MULTILINE):
        kept = re.sub(r"[^a-z0-9 -]", "", f"step {number}: {title}".lower())
        lines.append(f"| {number} | [{title}](#{kept.replace(' ', '-')}) |")
    return "\n".join(lines) + "\n"


# A number's name in code, its sign in the figure and the formulas of docs/steps.md, its row in metrics.jsonl.
_NAMES = [
    ("q1", "Q1", "update", "q1"),
    ("q2", "Q2", "update", "q2"),
    ("target_q", "Qt", "update", "target_q"),
    ("loss in update_critic", "loss, step 11", "update", "critic_loss"),
    ("loss in update_actor", "loss, step 13", "update", "actor_loss"),
    ("Episode.episode_return", "", "episode", "return"),
    ("Episode.length", "", "episode", "length"),
    ("Evaluation.return_mean", "", "evaluation", "return_mean"),
    ("health.from_batch", "Q1, Q2", "health", "disagreement"),
    ("health.from_batch", "Q1, Q2", "health", "q_scale"),
    ("health.from_batch", "Qt1, Qt2", "health", "q1_target_share"),
    ("health.from_batch", "actor(s)", "health", "saturated_share"),
    ("health.from_evaluation", "Q1, Q2", "health", "min_q_bias"),
    ("health.from_evaluation", "", "health", "obtained"),
]


def names_table() -> str:
    """Return what a number is called in the code, the figure, metrics.jsonl, the report and TensorBoard."""
    lines = ["| code | figure and formulas | metrics.jsonl | report | TensorBoard |", "|---|---|---|---|---|"]
    for code, sign, kind, name in _NAMES:
        curve = "learning curve" if kind == "evaluation" else charts.TITLES.get((kind, name), name.replace("_", " "))
        lines.append(f"| `{code}` | {sign} | `{kind}`: `{name}` | {curve} | `{kind}/{name}` |")
    return "\n".join(lines) + "\n"


def limits_table() -> str:
    """Return the limits of hints and verdicts, with their reasons, as the source has them."""
    source = (SOURCE / "diagnosis" / "hints.py").read_text("utf-8")
    lines = ["| limit | value | reason |", "|---|---:|---|"]
    for reason, assigned in re.findall(r"((?:^# .+\n)+)((?:^[A-Z_]+ = .+\n)+)", source, re.MULTILINE):
        words = " ".join(line.removeprefix("# ") for line in reason.splitlines())
        names = re.findall(r"^([A-Z_]+) = ", assigned, re.MULTILINE)
        lines += [f"| `{name}` | {getattr(hints, name):.3g} | {words} |" for name in names]
    return "\n".join(lines) + "\n"


def studies_table() -> str:
    """Return what studies of `t3d tune` found that were killed on the way."""
    lines = [
        "| study | killed | wall time | on ten fresh seeds: final return of the preset found | of ours |",
        "|---|---:|---:|---:|---:|",
    ]
    notes = []
    for name in ("pendulum", "inverted", "inverted-second"):
        seen = json.loads((RESULTS / "tune" / f"{name}.json").read_text("utf-8"))
        said, confirmed = dict(seen["said"]), seen["confirmed"] or {}
        found, ours = (_interval(confirmed.get(label)) for label in ("tuned", "pendulum"))
        lines.append(
            f"| `{seen['command']}` | {seen['kills']} times | {seen['wall_s'] / 60:.0f} min | {found} | {ours} |"
        )
        notes += ["", f"{seen['command'].split()[2]}: {said['confirmed']} The preset: `{said['best']}`."]
    machine = seen["machine"]
    where = f"Means with 95 % intervals. {machine['processor']}, {machine['cores']} cores, which other work shared."
    script = "[`benchmarks/study.py`](../benchmarks/study.py) runs them anew."
    return "\n".join([*lines, *notes, "", f"{where} {script}"]) + "\n"


def images_table() -> str:
    """Return what an update from images costs."""
    measured = json.loads((RESULTS / "images.json").read_text("utf-8"))
    lines = ["| frames | threads | an update | putting its batch together | a slot |", "|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {row['size']}x{row['size']} | {row['threads']} | {row['update_ms']:.1f} ms | {row['batch_ms']:.1f} ms "
        f"| {row['slot_bytes']:,} bytes |"
        for row in measured["rows"]
    ]
    hidden, machine = "-".join(map(str, measured["hidden"])), measured["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores, nothing else running"
    what = f"Three grey frames, batches of {measured['batch']}, networks of {hidden} behind the encoder; medians of "
    script = "[`benchmarks/images.py`](../benchmarks/images.py) measures it anew."
    lines += ["", f"{what}{measured['updates']}. {where}; {script}"]
    return "\n".join(lines) + "\n"


def beside_table() -> str:
    """Return what a process of its own for an environment that draws gains."""
    lines = [
        "| environment | `--threads` | in this process | beside the update (`--env-workers 1`) | gained |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in json.loads((RESULTS / "images.json").read_text("utf-8"))["steps"]:
        alone, beside = row["in this process"], row["beside"]
        gained = f"{100 * (1 - beside / alone):.0f} %"
        lines.append(f"| {row['env']} | {row['threads']} | {alone:.1f} ms | {beside:.1f} ms | {gained} |")
    return "\n".join(lines) + "\n"


def without_page() -> str:
    """Return the page about TD3 without each of its ideas."""
    script, measured = without()
    page: str = script.page_of(measured)
    return page


def without_sentence(key: str) -> str:
    """Return what an exercise says was measured without an idea."""
    script, measured = without()
    return f"{script.sentence(measured, key)} [All seven](../examples/without/README.md).\n"


def _interval(scores: dict[str, Any] | None) -> str:
    if scores is None:
        return "the default was the best"
    final = scores["final"]["mean"]
    return f"{final['value']:,.0f} ({final['low']:,.0f} to {final['high']:,.0f})"


# The ideas that exercises of docs/steps.md ask about.
_ASKED = ("no-exploration", "no-clamp", "no-smoothing", "no-twin", "time-limit-is-the-end", "no-delay", "no-targets")

TABLES = {
    **{f"without_{key.replace('-', '_')}": functools.partial(without_sentence, key) for key in _ASKED},
    "images": images_table,
    "beside": beside_table,
    "studies": studies_table,
    "contents": contents_table,
    "names": names_table,
    "limits": limits_table,
    "cluster": cluster_table,
    "controllers": controllers_table,
    "outside": outside_table,
    "frames": frames_table,
    "peers": peers_table,
    "peers_images": peers_images_table,
    "checkpoints": checkpoints_table,
    "safety": safety_table,
    "coverage": coverage_tables,
}
