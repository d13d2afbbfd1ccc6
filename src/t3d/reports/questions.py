"""The questions that a report answers: a verdict for each group, and charts in which what is healthy is tinted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from t3d.config import ALGORITHMS
from t3d.diagnosis.hints import (
    BEYOND_BOUND,
    DEAD_SHARE,
    DISAGREEING,
    KNOWING_NOTHING,
    NETWORKS,
    OVER_ESTIMATED,
    RULING_SHARE,
    SATURATED_SHARE,
    Row,
)
from t3d.diagnosis.questions import QUESTIONS, Answer, Question, answers
from t3d.reports import charts
from t3d.reports.grouping import Group
from t3d.reports.read_runs import Run
from t3d.reports.wording import MINUS, counted

Value = Callable[[Row], float | None]
_A_MINUS = re.compile(r"(?<![\w-])-(?=\d)")  # and not the hyphen of a flag
TITLES = {  # of the steps, short; docs/steps.md tells them at length
    2: "the actor",
    3: "two critics",
    4: "a batch from the memory",
    7: "the targets value what follows",
    8: "the smaller value is kept",
    9: "the target",
    11: "both critics, one target",
    12: "the critics move",
    13: "the actor moves uphill",
}


class Chart(NamedTuple):
    """One or two numbers of the rows of health, over env steps."""

    title: str
    of: str  # batch or evaluation
    lines: tuple[tuple[str, Value], ...]  # the first drawn through, the second dashed
    healthy: tuple[float | None, float | None] = (None, None)  # from, to; None: no end on that side
    words: str = ""  # what is healthy, for people
    is_share: bool = False  # lies in [0, 1]


def _at(name: str) -> Value:
    return lambda row: row.get(name)


def _promised(row: Row) -> float | None:
    return None if row["obtained"] is None or row["min_q_bias"] is None else row["obtained"] + row["min_q_bias"]


def _dead(row: Row) -> float | None:
    shares = [share for name in NETWORKS if (share := row.get(f"dead_{name}")) is not None]
    return max(shares, default=None)


def _of_bound(row: Row) -> float | None:
    return row["q_scale"] / row["value_bound"] if row["q_scale"] is not None and row["value_bound"] else None


CHARTS = {
    "promises": (
        Chart(
            "Discounted return of a state",
            "evaluation",
            (("promised", _promised), ("obtained", _at("obtained"))),
            words="well where promised lies on obtained, or just below",
        ),
        Chart(
            "Promised too much, of the size obtained",
            "evaluation",
            (("too much", _at("min_q_bias_ratio")),),
            (-KNOWING_NOTHING, KNOWING_NOTHING),
            f"well near 0; ±{KNOWING_NOTHING:g} is to know nothing, {OVER_ESTIMATED:g} an alarm",
        ),
    ),
    "twins": (
        Chart(
            "Distance of Q1 and Q2, of their size",
            "batch",
            (("apart", _at("disagreement")),),
            (0, DISAGREEING),
            f"well below {DISAGREEING:g}",
        ),
        Chart(
            "Share of targets that take Q1",
            "batch",
            (("takes Q1", _at("q1_target_share")),),
            (round(1 - RULING_SHARE, 6), RULING_SHARE),
            "well around 0.5",
            is_share=True,
        ),
    ),
    "bounds": (
        Chart(
            "Share of actions at a bound",
            "batch",
            (("at a bound", _at("saturated_share")),),
            (0, SATURATED_SHARE),
            f"well below {SATURATED_SHARE:g}",
            is_share=True,
        ),
        Chart(
            "Size of the actor's output before its tanh",
            "batch",
            (("before tanh", _at("pre_tanh")),),
            words="some ones; from 2.65 on an action is at its bound",
        ),
    ),
    "networks": (
        Chart(
            "Dead units, of the worst layer",
            "batch",
            (("dead", _dead),),
            (0, DEAD_SHARE),
            f"well below {DEAD_SHARE:g}",
            is_share=True,
        ),
        Chart(
            "Size of values, of what rewards can be worth",
            "batch",
            (("size", _of_bound),),
            (0, BEYOND_BOUND),
            f"well below 1; {BEYOND_BOUND:g} is an alarm",
        ),
    ),
}


def ask(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return what a page shows of each question.

    Args:
        groups: those of one environment.
    """
    answered = [[(run, _answers(run)) for run in group.runs] for group in groups]
    return [
        {
            "name": question.name,
            "text": question.text,
            "steps": [(step, TITLES[step]) for step in question.steps],
            "answers": [_of_group(question, [(run, found[question.name]) for run, found in of]) for of in answered],
            "charts": [_drawn(chart, groups) for chart in CHARTS[question.name]],
        }
        for question in QUESTIONS
    ]


def _answers(run: Run) -> dict[str, Answer]:
    """Answer by the rows of a run's health, which may be another version's or made up."""
    try:
        return answers(run.rows["health"])
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        problem = f"its rows of health are not what this version of t3d writes ({type(error).__name__}: {error})"
        return {question.name: Answer(None, "It cannot be said.", problem) for question in QUESTIONS}


def _of_group(question: Question, runs: Sequence[tuple[Run, Answer]]) -> dict[str, Any]:
    """Put the answers of several seeds into one: the worst speaks, and the others are counted."""
    wrong = [entry for entry in runs if entry[1].is_well is False]
    well = [entry for entry in runs if entry[1].is_well]
    heard = wrong or well or list(runs)
    run, answer = max(heard, key=lambda entry: entry[1].size)
    verdict, evidence = answer.verdict, answer.evidence
    if len(runs) > 1:
        counts = f"{len(heard)} of {counted(len(runs), 'seed')}" if len(heard) < len(runs) else f"all {len(runs)} seeds"
        worst = "" if answer.is_well is None or len(heard) == 1 else ", the worst"
        evidence = f"so in {counts}. Seed {run.seed}{worst}: {evidence}"
        if well and not wrong and len(well) < len(runs):
            why = next(other.evidence for _, other in runs if other.is_well is None)
            evidence += f"; of the others nothing can be said: {why}"
    tone = {True: "well", False: "wrong", None: "unknown"}[answer.is_well]
    of_values = question.name in ("promises", "twins") and answer.is_well is not None
    note = _meaning(str(run.options["algorithm"])) if of_values else ""
    evidence = _A_MINUS.sub(MINUS, evidence[:1].upper() + evidence[1:])
    return {"tone": tone, "verdict": verdict, "evidence": f"{evidence}.", "note": note}


def _meaning(algorithm: str) -> str:
    """Say where an algorithm's values are not what TD3's are."""
    if algorithm == "td7":
        return "These are the critics of the policy that learns, which need not be the one that is kept."
    if algorithm not in ALGORITHMS:
        return f"{algorithm} is an algorithm of its own: what its values mean may be something else than in TD3."
    return ""


def _drawn(chart: Chart, groups: Sequence[Group]) -> dict[str, Any]:
    lines = []
    for index, group in enumerate(groups):
        for run in group.runs:
            rows = [row for row in run.rows["health"] if row["of"] == chart.of]
            for place, (name, value) in enumerate(chart.lines):
                points = [(row["env_steps"], float(seen)) for row in rows if (seen := _number(value, row)) is not None]
                if points:
                    line = charts.drawn(points, run)
                    lines.append({"group": index, "seed": run.seed, "name": name, "dashed": place, "points": line})
    shown = {"title": chart.title, "words": chart.words, "healthy": chart.healthy}
    return {**shown, "is_share": chart.is_share, "lines": lines}


def _number(value: Value, row: Row) -> float | None:
    try:
        seen = value(row)
    except (KeyError, TypeError):
        return None
    return seen if isinstance(seen, int | float) else None
