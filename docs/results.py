"""Turn what benchmarks/learn.py measured into docs/results.md, the README's table and its figures."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pixels
import scores
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq
from tables import benchmark

from t3d.reports.statistics import compare

DOCS = Path(__file__).resolve().parent
RESULTS = DOCS.parent / "benchmarks" / "results"
learn = benchmark("learn")
FIGURE = DOCS / "figures" / "learning.svg"
FILMS = DOCS / "figures" / "films"  # <study>.webp, which docs/films.py makes
PROMISES_FIGURE = DOCS / "figures" / "over-estimation.svg"
ONE_CRITIC = "examples/one_critic.py"

Study = dict[str, Any]
Floats = NDArray[np.float64]
_REACHED = {True: "yes", False: "**no**", None: ""}

_HEAD = """# Results

Every number on this page comes from a file in [`benchmarks/results/learn`](../benchmarks/results/learn), one a seed,
that [`benchmarks/learn.py`](../benchmarks/learn.py) wrote; `make bench` measures what is missing, `make docs` makes
this page.

How to read them: *final* is the mean return of the last evaluation, over its episodes without
exploration noise, for each seed. *best* is the largest such mean during the run; it flatters, and is given because it
is the policy one would ship. ± is the standard deviation over seeds (not episodes). A few seeds say little: the spread
between TD3 seeds is often as large as the difference people argue about. Wall times were taken with two runs at a time
on two cores, or with one on two threads, with other work beside them, and with pauses to make room for measurements
during which the clock went on: they are upper bounds, and say nothing of speed ([performance.md](performance.md) does).

What was chosen by looking: the preset `pendulum` was picked among ten sets of options on seeds 0 to 4, the very seeds
shown here; on seeds 5 to 9, looked at once afterwards, it did as well ([log.md](log.md)). `fast` has its
`pre_tanh_weight`, the value of another paper, because seed 1 of fast-halfcheetah never learned without it: that seed is
no independent test of it. Nothing else was chosen by these results; other options on the same environment are
studies of their own.

[example-report.html](example-report.html) is what `t3d report` makes of five seeds on Pendulum-v1, 20,000 steps
each, beside the published return: save it and open it in a browser.
"""


def studies(*, peers: bool = False, screened: bool = False) -> list[Study]:
    """Return every study of t3d that has results, or of its peers, or of the screen; in the order of their names."""
    found = [
        _result(name, study)
        for name, study in sorted(learn.STUDIES.items())
        if bool(study.peer) == peers and (study.goal == learn.SCREEN) == screened
    ]
    return [study for study in found if study["runs"]]


def _result(name: str, study: Any) -> Study:
    files = sorted((RESULTS / "learn" / name).glob("s*.json"), key=lambda path: int(path.stem[1:]))
    runs = [json.loads(path.read_text("utf-8")) for path in files]
    finals = [run["final"] for run in runs]
    value = (statistics.mean(finals) if study.statistic == "mean" else min(finals)) if finals else 0.0
    is_whole = study.at_least is not None and len(finals) >= study.seeds
    return {
        **asdict(study),
        "study": name,
        "seeds": len(runs),
        "runs": runs,
        "over_seeds": _over_seeds(finals),
        "is_whole": is_whole,
        "reached": value >= study.at_least if is_whole and study.at_least is not None else None,
    }


def _over_seeds(values: list[float], digits: int = 1) -> str:
    """Return mean ± spread; without a spread, and saying so, of less than two."""
    if len(values) < 2:
        return "".join(f"{value:,.{digits}f} (1 seed)" for value in values)
    return f"{statistics.mean(values):,.{digits}f} ± {statistics.stdev(values):,.{digits}f}"


def page() -> str:
    """Return the text of docs/results.md."""
    found = studies()
    parts = [_HEAD, "![Learning curves, one line a seed](figures/learning.svg)\n", _summary(found), _compared(found)]
    peers = studies(peers=True)
    parts += [scores.section(found), _peers(found, peers), pixels.section(found, peers), _promises(found)]
    parts.append(scores.screen(studies(screened=True)))
    return "\n".join([*parts, *(_section(study) for study in studies())])


def readme_table() -> str:
    """Return the README's table."""
    lines = [
        "| environment | env steps | seeds | final return over seeds | wall time of a run, at most |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {pixels.task(s)}{_by_preset(s)} | {pixels.frames(s)} | {s['seeds']} "
        f"| {_over_seeds([run['final'] for run in s['runs']], 0)} | {_minutes(s)} |"
        for s in studies()
        if s["is_whole"] and s["goal"] != learn.AS_GOOD
    ]
    return "\n".join(lines) + "\n"


def _by_preset(study: Study) -> str:
    return f", `--preset {study['options']['preset']}`" if "preset" in study["options"] else ""


def _minutes(study: Study) -> str:
    return f"{max(run['wall_s'] for run in study['runs']) / 60:.1f} min"


def _summary(found: list[Study]) -> str:
    lines = ["| study | environment | goal | final over seeds | reached |", "|---|---|---|---|---|"]
    lines += [
        f"| [{s['study']}](#{s['study']}) | {s['env']} | {s['goal']} | {s['over_seeds']} | {_REACHED[s['reached']]} |"
        for s in found
    ]
    return "\n".join(lines) + "\n"


def _compared(found: list[Study]) -> str:
    """Return what the studies that are there for comparison say beside the plain one of their environment."""
    plain = {(study["env"], study["steps"]): study for study in found if not _changes(study)}
    several = [study for study in found if len(study["runs"]) > 1]
    others = [study for study in several if _changes(study) and (study["env"], study["steps"]) in plain]
    if not others:
        return ""
    lines = [
        "| study | compared with | difference of the final means | a seed of the study beats one of the other "
        "| what Welch's test says |",
        "|---|---|---|---|---|",
    ]
    for study in others:
        base = plain[study["env"], study["steps"]]
        seen = compare(*([run["final"] for run in which["runs"]] for which in (study, base)))
        mean, (share, low, high) = seen.mean, (f"{100 * part:.0f} %" for part in seen.improvement)
        beats = f"{share} ({low} to {high})"
        around = f"{mean.value:+,.0f}" + ("" if mean.low is None else f" ({mean.low:+,.0f} to {mean.high:+,.0f})")
        lines.append(f"| {study['study']} | {base['study']} | {around} | {beats} | {seen.verdict} |")
    lines += [
        "",
        "The intervals hold 95 %; [statistics.md](statistics.md) says what they are worth with so few seeds.",
        "",
    ]
    return "\n".join(lines)


def _changes(study: Study) -> bool:
    """Return whether a study is there to be compared with the plain one of its environment."""
    return bool(study["options"] or study.get("script"))


def _peers(found: list[Study], peers: list[Study]) -> str:
    """Return how plain TD3 of other libraries learns, beside ours."""
    ours = {study["study"]: study for study in found}
    peers = [study for study in peers if study["seconds"] is None]
    if not peers:
        return ""
    lines = [
        "| environment | t3d | Stable-Baselines3 | difference of the means, Welch's 95 % interval "
        "| what so many seeds would have shown in 4 of 5 such studies |",
        "|---|---|---|---|---|",
    ]
    for peer in peers:
        base = ours[peer["beside"]]
        if len(peer["runs"]) < 2:
            continue
        finals = [[run["final"] for run in study["runs"]] for study in (base, peer)]
        mean = compare(*finals).mean
        cells = [
            f"{_over_seeds([run['final'] for run in s['runs']], 0)} ({len(s['runs'])} seeds)" for s in (base, peer)
        ]
        around = f"{mean.value:+,.0f} ({mean.low:+,.0f} to {mean.high:+,.0f})"
        lines.append(f"| {peer['env']} | {' | '.join(cells)} | {around} | {_detectable(*finals):,.0f} or more |")
    run = peers[0]["runs"][0]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return (
        "## beside Stable-Baselines3\n\n"
        "Is this TD3 the field's TD3? The same task with equal options (256-256, learning rate 3e-4, batch 256,\n"
        "10,000 random steps), evaluated alike: 10 episodes without noise from the same seeds, after 100,000 steps.\n"
        f"Their versions: {versions}.\n\n" + "\n".join(lines) + "\n\n"
        "```\nmake .venv-peers/installed\n"
        f"python benchmarks/learn.py {' '.join(peer['study'] for peer in peers)}\n```\n"
    )


def _detectable(one: list[float], other: list[float]) -> float:
    """Return the least difference of means that a t-test at 5 % sees with probability 0.8, by the spreads seen."""
    sizes = len(one), len(other)
    freedom = sum(sizes) - 2
    spread = math.sqrt(
        sum((n - 1) * statistics.variance(xs) for n, xs in zip(sizes, (one, other), strict=True)) / freedom
    )
    error = spread * math.sqrt(1 / sizes[0] + 1 / sizes[1])
    limit = stats.t.ppf(0.975, freedom)
    return error * float(brentq(lambda shift: stats.nct.sf(limit, freedom, shift) - 0.8, 0.1, 20))


class Promises(NamedTuple):
    """What the critics of a study promised at its evaluations, and what came; (n, P): a row a seed."""

    env_steps: Floats  # (P,), where every seed has its numbers
    obtained: Floats
    q1_bias: Floats
    min_q_bias: Floats


def _promised(study: Study) -> Promises | None:
    """Return a study's promises; None if its runs are from before they were recorded."""
    if not all(run.get("promises") for run in study["runs"]):
        return None
    rows = np.array([run["promises"] for run in study["runs"]], np.float64)  # (n, evaluations, 4); None is NaN
    rows = rows[:, np.isfinite(rows).all(axis=(0, 2))]
    return Promises(rows[0, :, 0], *np.moveaxis(rows[:, :, 1:], 2, 0)) if rows.size else None


def _arms(found: list[Study]) -> dict[str, Promises]:
    """Return what two critics promised, and what one did; nothing unless both were studied."""
    alone = [study for study in found if study.get("script") == ONE_CRITIC]
    both = [study for study in found if not _changes(study) and study["env"] in {s["env"] for s in alone}]
    arms = {"two critics": _promised(both[0]), "one critic": _promised(alone[0])} if alone and both else {}
    kept = {name: promised for name, promised in arms.items() if promised is not None}
    return kept if len(kept) == 2 else {}


def _promises(found: list[Study]) -> str:
    """Return the section on what the second critic is for."""
    arms = _arms(found)
    if not arms:
        return ""
    lines = [
        "| at the last evaluation | obtained | bias of Q1 | bias of the least Q |",
        "|---|---|---|---|",
    ]
    for name, promised in arms.items():
        numbers = (
            f"{values[:, -1].mean():+,.1f} ± {values[:, -1].std(ddof=1):,.1f}"
            for values in (promised.q1_bias, promised.min_q_bias)
        )
        obtained = promised.obtained[:, -1]
        lines.append(f"| {name} | {obtained.mean():,.1f} ± {obtained.std(ddof=1):,.1f} | {' | '.join(numbers)} |")
    seen = compare(*(arms[name].q1_bias[:, -1] for name in ("one critic", "two critics")))
    return (
        "## over-estimation\n\n"
        "What the critics promised of the states of each evaluation, and the discounted return obtained from them\n"
        "([health.md](health.md#from-an-evaluation)); the bias is what was promised too much. One critic alone is\n"
        f"[`{ONE_CRITIC}`](../{ONE_CRITIC}). Lines are means over the seeds, bands reach from the\n"
        "least to the largest; ± is the standard deviation over seeds.\n\n"
        "![Promised and obtained, with two critics and with one, and the bias of both]"
        f"(figures/{PROMISES_FIGURE.name})\n\n" + "\n".join(lines) + "\n\n"
        f"The bias of Q1 at the end, one critic less two: {seen.mean.value:+,.1f} ({seen.mean.low:+,.1f} to "
        f"{seen.mean.high:+,.1f}, Welch's\n95 % interval). {seen.verdict}\n"
    )


def _section(study: Study) -> str:
    first = study["runs"][0]
    machine, config, engine = first["machine"], first["config"], first["engine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rows = "\n".join(
        f"| {run['seed']} | {run['final']:,.1f} ± {run['final_std_over_episodes']:,.1f} | {run['best']:,.1f} "
        f"| {run['wall_s']:,.0f} s |"
        for run in study["runs"]
    )
    td3, count = config["td3"], len(study["runs"])
    seeds = f"{count} seed{'s' * (count > 1)}"
    return f"""## {study["study"]}

{pixels.task(study)}, {pixels.frames(study)} env steps, {seeds}, preset `{first["preset"]}`: hidden layers
{td3["hidden"]}, learning rate {td3["lr"]}, batch {config["batch_size"]}, gamma {td3["gamma"]},
{config["random_steps"]:,} random steps, engine {engine["name"]} on {engine["threads"]} thread(s).
Machine: {machine["processor"]}, {machine["cores"]} cores, Python {machine["python"]}; {versions}.

| seed | final (± over episodes) | best | wall time |
|---|---|---|---|
{rows}

Goal: {study["goal"]}. Over seeds: final {study["over_seeds"]}.{_hours(study)}
{_film(study)}
```
python benchmarks/learn.py {study["study"]}{" --jobs 1 --threads 2" * (engine["threads"] == 2)}
```
"""


def _hours(study: Study) -> str:
    """Return how long the processor worked for it, where that was counted."""
    took = [run["processor_s"] for run in study["runs"] if "processor_s" in run]
    return f" Processor time of a run, its processes together: at most {max(took) / 3600:.1f} hours." if took else ""


def _film(study: Study) -> str:
    """Return the film of its best policy, if one was made."""
    film = FILMS / f"{study['study']}.webp"
    is_made = film.exists()
    seen = pixels.SEEN.get(study["study"], "")
    shown = f"\n{seen}\n\n![The best policy of a run of {study['study']}](figures/films/{film.name})\n"
    return shown if is_made else ""


def draw() -> None:
    """Write the figures."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "t3d"
    found = studies()
    _draw_curves(found)
    if arms := _arms(found):
        _draw_promises(arms)


def _draw_curves(found: list[Study]) -> None:
    """Write the figure of learning curves: a panel a study, a line a seed."""
    from matplotlib import pyplot as plt

    rows = -(-len(found) // 4)
    grid, axes = plt.subplots(rows, 4, figsize=(11, 2.6 * rows), squeeze=False)
    for ax in axes.flat[len(found) :]:
        ax.axis("off")
    # One environment, one scale: those panels are there to be compared.
    tops: dict[str, float] = {}
    for s in found:
        top = max(y for run in s["runs"] for _, y in run["curve"])
        tops[pixels.task(s)] = max(top, tops.get(pixels.task(s), top))
    for ax, study in zip(axes.flat, found, strict=False):
        for run in study["runs"]:
            steps, returns = zip(*run["curve"], strict=True)
            ax.plot([n / 1000 for n in steps], returns, color="#0f7173", alpha=0.75, linewidth=1.4)
        if study["at_least"] is not None:
            ax.axhline(study["at_least"], color="#8a8f98", linewidth=0.9, linestyle=(0, (4, 3)))
        if (top := tops[pixels.task(study)]) > 0:
            ax.set_ylim(top=1.06 * top)
        _plain_axes(ax, study["study"])
    for row in axes:
        row[0].set_ylabel("return of an evaluation", fontsize=8, color="#555")
    grid.tight_layout(w_pad=1.6)
    FIGURE.parent.mkdir(exist_ok=True)
    grid.savefig(FIGURE, metadata={"Date": None}, facecolor="#fcfcfb")


def _plain_axes(ax: Any, title: str) -> None:
    ax.set_title(title, fontsize=10, loc="left", color="#222")
    ax.set_xlabel("thousand env steps", fontsize=8, color="#555")
    ax.tick_params(labelsize=8, colors="#555", length=0)
    ax.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.set_facecolor("none")
    for side in ax.spines.values():
        side.set_visible(False)


_COLOURS = {"two critics": "#0f7173", "one critic": "#c2571a"}
_OBTAINED = "#8a8f98"
_LEGEND = {"facecolor": "#fcfcfb", "edgecolor": "none", "framealpha": 1}


def _draw_promises(arms: dict[str, Promises]) -> None:
    """Write the figure of over-estimation: promised and obtained for each arm, and the bias of both."""
    from matplotlib import pyplot as plt

    grid, axes = plt.subplots(1, 3, figsize=(11, 3.1))
    for ax, (name, promised) in zip(axes, arms.items(), strict=False):
        _band(ax, promised.env_steps, promised.obtained, _OBTAINED, "obtained")
        _band(ax, promised.env_steps, promised.obtained + promised.q1_bias, _COLOURS[name], "promised by Q1")
        _plain_axes(ax, name)
        _band(axes[2], promised.env_steps, promised.q1_bias, _COLOURS[name], name)
    axes[1].sharey(axes[0])
    axes[0].autoscale(axis="y")
    _plain_axes(axes[2], "bias of Q1: promised less obtained")
    axes[2].axhline(0, color=_OBTAINED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    for ax in axes:
        ax.legend(fontsize=8, labelcolor="#555", handlelength=1.4, borderaxespad=0.2, loc="upper left", **_LEGEND)
        # Room for it above the lines.
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.22 * (high - low) * (ax is not axes[1]))
    axes[0].set_ylabel("discounted return", fontsize=8, color="#555")
    grid.tight_layout(w_pad=1.6)
    PROMISES_FIGURE.parent.mkdir(exist_ok=True)
    grid.savefig(PROMISES_FIGURE, metadata={"Date": None}, facecolor="#fcfcfb")


def _band(ax: Any, env_steps: Floats, values: Floats, colour: str, label: str) -> None:
    """Draw the mean over the seeds, and from the least to the largest of them."""
    thousands = env_steps / 1000
    ax.fill_between(thousands, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.14, linewidth=0)
    ax.plot(thousands, values.mean(axis=0), color=colour, linewidth=1.6, label=label)
