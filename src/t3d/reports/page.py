"""The report's page; `html.py` says what a page may do."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import structs

from t3d.config import ALGORITHMS
from t3d.diagnosis import actions, hints
from t3d.diagnosis.questions import QUESTIONS
from t3d.reports import charts, html, questions, summary, videos, wording
from t3d.reports.grouping import Group, group_runs, name_groups
from t3d.reports.read_runs import Run, find

MOST_COMPARED = 6  # groups of an environment


class Report(NamedTuple):
    """A report before it is written anywhere."""

    groups: list[Group]
    numbers: dict[str, Any]  # what --json prints
    runs: list[Run]  # all that were found, those without an evaluation too


class Live(NamedTuple):
    """What a page must know to follow a run that goes on."""

    reload_s: float
    until: float  # seconds since 1970: from then on the run counts as dead


def gather(paths: Sequence[Path], names: Sequence[str] = ()) -> Report:
    """Read, group and count.

    Args:
        paths: run folders, or parents of run folders.
        names: what the groups are called, in their order; none leaves them the names that follow from their options.

    Raises:
        RunRefused: a folder is no run, cannot be read, or holds no evaluation yet.
        ConfigRefused: there are not as many names as groups.
    """
    runs = find(paths)
    groups = group_runs(runs)
    if names:
        groups = name_groups(groups, names)
    return Report(groups, summary.summarize(groups), runs)


def write(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page; see `t3d.reports.write_report`."""
    return html.write(render(gather(paths)), out or paths[0] / "report.html")


def render(report: Report, live: Live | None = None) -> str:
    """Return the page's text.

    Args:
        report: what is shown.
        live: the run goes on, and the page follows it.
    """
    films, left_out = videos.choose(report.groups)
    studies = [_study(report, env, i) for i, env in enumerate(dict.fromkeys(group.env for group in report.groups))]
    for study in studies:
        study["clips"] = [film for film in films if film.env == study["env"]]
        study["notes"] += [note for env, note in left_out if env == study["env"]]
        groups = [group for group in report.groups if group.env == study["env"]]
        study["stages"], notes = videos.stages(groups[0], films) if len(groups) == 1 else ([], [])
        study["notes"] += notes
        study["seen"], notes = videos.seen_in(groups[0].runs[0].path)
        study["notes"] += notes
    return html.render(
        "page.html.j2",
        "page.js",
        ["page.css"],
        studies=studies,
        runs=len(report.runs),
        live=live,
        planned=max(int(run.options["steps"]) for run in report.runs),
        method=report.numbers["method"],
        pooled=[entry for entry in report.numbers["comparisons"] if "envs" in entry],
        data={"studies": [study["data"] for study in studies], "live": live and live._asdict()},
    )


def _study(report: Report, env: str, index: int) -> dict[str, Any]:
    """Return what the template shows of one environment, but its videos: these share a page's room."""
    groups = [group for group in report.groups if group.env == env]
    counted = [entry for entry in report.numbers["groups"] if entry["env"] == env]
    if len(groups) > MOST_COMPARED:  # too many to be held against the first: the best stands first
        order = sorted(range(len(groups)), key=lambda k: -counted[k]["scores"]["final"]["mean"]["value"])
        groups, counted = [groups[k] for k in order], [counted[k] for k in order]
    rows = [(run.seed, row) for run in report.runs if run.env == env for row in run.rows["event"]]
    events = [{"seed": seed, **row} for seed, row in rows if not row.get("lost")]  # of a gap the run's notes tell
    trained_by = [str(group.runs[0].options["algorithm"]) for group in groups]
    asked = questions.ask(groups[:MOST_COMPARED])
    return {
        "env": env,
        "algorithms": list(dict.fromkeys(name.upper() if name in ALGORITHMS else name for name in trained_by)),
        "questions": asked,
        "measured": list(dict.fromkeys(group.measured for group in groups)),
        "groups": counted,
        "verdicts": [wording.learned(entry) for entry in counted],
        "comparisons": [
            entry for entry in report.numbers["comparisons"] if entry.get("env") == env and len(groups) <= MOST_COMPARED
        ],
        "best_of": [wording.best_of(entry) for entry in report.numbers["best_of"] if entry["env"] == env],
        "nearest": _nearest(counted[0]),
        "events": events,
        "notes": [note for entry in counted for note in entry["notes"]],
        "hints": [{"seed": run.seed, "hint": hint} for group in groups for run in group.runs for hint in _hints(run)],
        "actions": [
            {"seed": run.seed, "words": words} for group in groups for run in group.runs if (words := _moved(run))
        ],
        "commands": [wording.command(list(group.runs)) for group in groups],
        "options": _options(groups),
        "machines": _machines(groups),
        "wall_s": statistics.median(run.wall_s for group in groups for run in group.runs),
        "data": {
            "id": index,
            "learning": charts.learning(groups, counted),
            "training": charts.small(groups, ("episode", "update")),
            "health": charts.small(groups, ("health",)),
            "questions": [chart for question in asked for chart in question["charts"]],
        },
    }


def _hints(run: Run) -> list[str]:
    """Return what is wrong with a run and answers no question; rows that are odd are spoken of there."""
    answering = {name for question in QUESTIONS for name in question.hints}
    try:
        return [str(hint) for hint in hints.hints(run.rows["health"]) if hint.name not in answering]
    except (KeyError, TypeError, ValueError):
        return []


def _moved(run: Run) -> str:
    """Say how the actions of a run's last evaluation moved; empty if its rows say nothing of it."""
    seen = run.last_actions
    return "; ".join(actions.in_words(seen, run.period_s)) if seen else ""


def _nearest(group: dict[str, Any]) -> dict[str, Any] | None:
    """Return the published return to hold the final one against: of TD3, after as many frames, or the nearest known."""
    last = group["frames"][-1]
    texts = []
    for reference in group["references"]:
        if reference["algorithm"] == "TD3":
            steps, level, _ = min(reference["points"], key=lambda point: abs(point[0] - last))
            if reference["there"] is not None:
                steps, level = last, reference["there"]
            texts.append({**reference, "at": steps, "level": level})
    return min(texts, key=lambda entry: (abs(entry["at"] - last), entry["warning"] != ""), default=None)


def _options(groups: Sequence[Group]) -> list[tuple[str, list[Any], bool]]:
    """Return every option with its value in each group, and whether they differ; the seeds stand in their own table."""
    names = dict.fromkeys(name for group in groups for name in group.runs[0].options if name != "seed")
    rows = [(name, [group.runs[0].options.get(name) for group in groups]) for name in names]
    return [(name, values, any(value != values[0] for value in values)) for name, values in rows]


def _machines(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return the machines that the runs were made on, each once, with its versions and the engine used."""
    texts: list[dict[str, Any]] = []
    for group in groups:
        for run in group.runs:
            entry = structs.asdict(run.machine) | {"engine": run.engine.name, "threads": run.engine.threads}
            if entry not in texts:
                texts.append(entry)
    return texts
