"""What a study came to: its preset, that against the default on fresh seeds, and the numbers of its page."""

from __future__ import annotations

import json
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t3d.config import IDLE, Config
from t3d.execution.jobs import Job
from t3d.presets import choose
from t3d.storage import disk
from t3d.tuning import race
from t3d.tuning.grid import words
from t3d.tuning.search import job_in
from t3d.tuning.space import Option
from t3d.tuning.study import Journal, best_three, options_of, outcomes_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

PRESET = "tuned"
_FRESH = 1_000  # the confirming seeds begin so far behind the study's
_FEWEST_FOR_IMPORTANCE = 10
# How a run of the preset goes is its user's; the rest is what the preset is for.
_NOT_IN_PRESET = IDLE | {"steps", "seed", "threads", "engine", "device", "hardware", "td3"}
_NOT_IN_PRESET |= {"eval_every", "eval_episodes", "eval_env", "log_every"}


def write_preset(journal: Journal, number: int) -> Path:
    """Write the options of a trial as a preset file: with it they are those of the trial, whatever the defaults."""
    record = journal.record
    trial = journal.trials()[number]
    config = record.config.with_values(options_of(trial) or {})
    bare = _options(choose(record.spec, "td3").config)  # a preset is laid over defaults and the environment's facts
    options = {name: value for name, value in _options(config).items() if value != bare[name]}
    options |= options_of(trial) or {}
    lines = [
        f"# Found by t3d tune in {record.spec.title}: trial {number}, {record.config.steps:,} steps a run.",
        *(f"{name} = {_toml(value)}" for name, value in options.items() if value is not None),
    ]
    path = journal.folder / f"{PRESET}.toml"
    disk.replace(path, ("\n".join(lines) + "\n").encode())
    return path


def _options(config: Config) -> dict[str, Any]:
    return {name: v for name, v in {**vars(config), **vars(config.td3)}.items() if name not in _NOT_IN_PRESET}


def _toml(value: Any) -> str:
    # JSON's texts, numbers, true, false and lists of them are TOML's.
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def confirming_jobs(journal: Journal, number: int, seeds: int) -> list[Job]:
    """Return the runs that hold the best options against the default, each on so many seeds that no trial has seen."""
    found = options_of(journal.trials()[number]) or {}
    parent = journal.folder / "confirm"
    return [
        job._replace(out=str(parent / f"{name}-s{job.seed}"))
        for k in range(seeds)
        for name, values, preset in ((f"trial-{number}", found, PRESET), ("default", {}, journal.record.preset))
        for job in [job_in(journal, values, _FRESH + k, parent, preset)]
    ]


def is_default(journal: Journal, number: int) -> bool:
    """Return whether the best options are the default ones: there is nothing to confirm."""
    config = journal.record.config
    return config.with_values(options_of(journal.trials()[number]) or {}) == config


def gather(journal: Journal, best: int, confirmed: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the page shows, as JSON allows.

    Args:
        journal: of the study.
        best: number of the best trial.
        confirmed: as `report --json` prints it, of the confirming runs; None if there are none.
    """
    record, trials = journal.record, journal.trials()
    finalists = [trial.number for trial in best_three(trials)]
    importance, why = _importances(journal, trials)
    return {
        "env": record.spec.title,
        "command": shlex.join(["t3d", "train", record.env, *record.spec.flags, "--preset", f"{PRESET}.toml"]),
        "preset": record.preset,
        "steps": record.config.steps,
        "seeds": record.seeds,
        "best": best,
        "best_words": words(options_of(trials[best]) or {}),
        "is_default": is_default(journal, best),
        "confirmed": confirmed,
        "finals": _finals(journal, finalists) if finalists else [],
        "trials": [_trial(trial) for trial in trials],
        "importances": importance,
        "no_importances": why,
        "slices": [_slice(option, trials) for option in record.space],
    }


def _finals(journal: Journal, numbers: list[int]) -> list[dict[str, Any]]:
    finals = []
    for trial in journal.final(numbers).get_trials(deepcopy=False):
        if "trial" in trial.user_attrs:
            scores = trial.intermediate_values
            value = sum(scores.values()) / len(scores) if scores else None
            finals.append(
                {
                    "number": trial.user_attrs["trial"],
                    "ended": trial.state.name == "PRUNED",
                    "seeds": len(scores),
                    "value": value,
                    "scores": [scores[seed] for seed in sorted(scores)],
                }
            )
    return sorted(finals, key=lambda one: (one["ended"], -(one["value"] or 0.0)))


def _trial(trial: FrozenTrial) -> dict[str, Any]:
    outcomes = outcomes_of(trial)
    stopped = [outcome for outcome in outcomes.values() if outcome.end == "stopped"]
    failed = {seed: outcome.problem for seed, outcome in outcomes.items() if outcome.end == "failed"}
    state = {"COMPLETE": "played", "PRUNED": "stopped", "FAIL": "failed"}.get(trial.state.name, "not ended")
    return {
        "number": trial.number,
        "state": state,
        "value": trial.value if trial.state.name == "COMPLETE" else None,
        "seeds": len(outcomes),
        "at": stopped[0].curve[-1] if stopped else None,
        "failed": failed,
        "words": words(options_of(trial) or {}),
        "worst": race.worst_of([outcomes]),
    }


def _slice(option: Option, trials: list[FrozenTrial]) -> dict[str, Any]:
    points = []
    for trial in trials:
        value = trial.value if trial.state.name == "COMPLETE" else None
        if value is not None and option.name in trial.params:
            param = trial.params[option.name]
            points.append([option.words.index(param) if option.choices else param, value, trial.number])
    return {
        "option": option.name,
        "log": option.log,
        "range": None if option.choices else [option.low, option.high],
        "choices": [str(word) for word in option.words],
        "when": ", ".join(f"{name} {value}" for name, value in option.when.items()),
        "points": points,
    }


def _importances(journal: Journal, trials: list[FrozenTrial]) -> tuple[dict[str, float], str]:
    """Return what share of the difference between trials each option makes, or why none is told."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    ended = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if len(ended) < _FEWEST_FOR_IMPORTANCE:
        return {}, f"Fewer than {_FEWEST_FOR_IMPORTANCE} trials were played to their end: too few to tell."
    if len({trial.value for trial in ended}) < 2:
        return {}, "All trials came to the same value."
    always = [o.name for o in journal.record.space if all(o.name in t.params for t in ended)]
    varied = [name for name in always if len({t.params[name] for t in ended}) > 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an option that has hardly varied
        found = get_param_importances(journal.study, evaluator=PedAnovaImportanceEvaluator(), params=varied)
    return {name: float(share) for name, share in found.items()}, ""
