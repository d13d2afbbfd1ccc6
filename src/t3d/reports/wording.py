"""How a report puts its numbers into words."""

from __future__ import annotations

import shlex
from typing import Any

from t3d import presets
from t3d.config import ALGORITHMS, IDLE, Config
from t3d.reports.grouping import shown
from t3d.reports.read_runs import Run
from t3d.reports.statistics import FEWEST_SEEDS

MINUS = "\N{MINUS SIGN}"


def number(value: float | None) -> str:
    """Write a number for people: 1,234, 12.3, 0.0123."""
    if value is None:
        return "\N{EN DASH}"
    size = abs(value)
    if size == 0 or size >= 99.95:
        text = f"{size:,.0f}"
    elif size >= 1:
        text = f"{size:.1f}"
    else:
        text = f"{size:.3g}"
    return MINUS + text if value < 0 and text != "0" else text


def span(interval: dict[str, Any] | None) -> str:
    """Write an interval: 12.3 to 14.5; nothing where there is none."""
    if interval is None or interval["low"] is None:
        return ""
    return f"{number(interval['low'])} to {number(interval['high'])}"


def seconds(value: float) -> str:
    """Write a duration: 42 s, 7.1 min, 2.3 h."""
    if value < 60:
        return f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 3_600 else f"{value / 3_600:.1f} h"


def percent(share: float) -> str:
    """Write a share: 95 %."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def counted(count: int, noun: str) -> str:
    """Write a number with its noun: 1 seed, 5 seeds."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def steps_of(entry: dict[str, Any]) -> str:
    """Say after how long groups are held against each other: 10,000 steps; in frames, where actions are repeated.

    Args:
        entry: one of `summarize(...)["comparisons"]`, of an environment.
    """
    return counted(entry["frames"], "frame" if entry["repeated"] else "step")


def learned(group: dict[str, Any]) -> tuple[str, str]:
    """Say whether a group learned: a word and the evidence.

    Args:
        group: one of `summarize(...)["groups"]`.
    """
    final, baseline, steps = group["scores"]["final"]["mean"], group["baseline"], group["env_steps"]
    seeds = len(group["runs"])
    if baseline is None:
        first = group["curve"]["mean"]["value"][0]
        return "No return from before training is known.", (
            f"The mean return of {group['measured']} was first {number(first)}, after {steps[0]:,} steps, "
            f"and is {number(final['value'])} after {steps[-1]:,}."
        )
    gain, what = baseline["gain"], baseline["what"]
    of = "" if group["measured"] == "evaluations" else f"of {group['measured']} "
    gets = "get" if what.endswith("s") else "gets"
    way = (
        f"Mean return {of}{number(final['value'])} after {steps[-1]:,} steps, "
        f"where {what} {gets} {number(baseline['mean']['value'])}."
    )
    if seeds == 1:
        word = f"One seed did {'better' if gain['value'] > 0 else 'no better'} than {what}."
        return word, f"{way} How another seed would do is unknown."
    sure = (
        f"The gain is {number(gain['value'])}, 95\N{NO-BREAK SPACE}% interval {span(gain)}, {counted(seeds, 'seed')}."
    )
    if gain["low"] > 0:
        return "It learned.", f"{way} {sure}"
    if gain["high"] < 0:
        return f"It did worse than {what}.", f"{way} {sure}"
    return "It is not clear that it learned.", f"{way} {sure}"


def best_of(entry: dict[str, Any]) -> str:
    """Say which of several groups did best, and how much of that is luck.

    Args:
        entry: one of `summarize(...)["best_of"]`.
    """
    text = f"{entry['best']}, the best of {entry['of']}, with a mean of {number(entry['mean'])}"
    seen = entry["optimism"]
    if seen is None:
        return f"{text}. With one seed each nothing can be said of how much of that is luck."
    return (
        f"{text}. The best of {entry['of']} flatters: by {number(seen['as_seen'])} on average if the groups differ as "
        f"they seem to, by {number(seen['if_equal'])} if they do not differ at all (simulated from the seeds' spread)."
    )


def trust(coverage: dict[str, Any] | None) -> str:
    """Say what the intervals are worth for the number of seeds shown."""
    if coverage is None:
        return "A single seed has no interval."
    mean, middle = ([percent(share) for share in coverage[name]] for name in ("mean", "iqm"))
    text = (
        f"How far to trust these intervals: in simulated studies of {coverage['seeds']} seeds the mean's 95 % interval "
        f"held the true mean in {mean[0]} to {mean[1]} of all cases, least where a few seeds or about half of them fail"
    )
    if coverage["seeds"] < FEWEST_SEEDS:
        return f"{text}. Fewer than {FEWEST_SEEDS} seeds get no interquartile mean."
    return f"{text}; the interquartile mean's held the true one in {middle[0]} to {middle[1]}."


def trained(run: Run) -> str:
    """Say what was trained: the algorithm, the preset, and every option that differs from it.

    Seed, steps, engine and threads are left out: they stand beside it wherever this is shown.
    """
    algorithm = str(run.options["algorithm"])
    text = f"{algorithm.upper() if algorithm in ALGORITHMS else algorithm}, preset {run.preset}"
    known = _preset(run)
    if known is None:
        return f"{text}, which is none of t3d's"
    aside = {"seed", "steps", "algorithm", "source", *_RAN} | IDLE
    others = {name: value for name, value in run.options.items() if name not in aside and known.get(name) != value}
    words = ", ".join(f"{name} {shown(value)}" for name, value in others.items())
    return f"{text} with {words}" if words else text


def command(runs: list[Run]) -> str:
    """Write the commands that repeat some runs of one group; every option that its preset does not set.

    Engine and thread count are those that ran, since they decide the last bits. Texts from a run folder are quoted
    for the shell. Empty if one would be read as something else, or holds what a terminal might obey; and for an
    algorithm that no command line can name.
    """
    first = runs[0]
    options = {**first.options}
    if options["algorithm"] not in ALGORITHMS:
        return ""
    options.update({name: getattr(first.engine, key) for name, key in _RAN.items()})
    known = _preset(first)
    preset = [] if known is None else ["--preset", first.preset]
    known = known or {}
    words = ["t3d", "train", first.spec.name, *first.spec.flags, *preset]
    for name, value in options.items():
        if name != "seed" and (name not in known or known[name] != value or name in _RAN):
            words += _flag(name, value)
    line = shlex.join(words)
    if first.spec.name.startswith("-") or not first.spec.is_named or not line.isprintable():
        return ""
    return "\n".join(f"{line} --seed {run.seed}" for run in runs)


# Option, and where config.json says what it came to.
_RAN = {"engine": "name", "threads": "threads"}


def _preset(run: Run) -> dict[str, Any] | None:
    """Return every option as a run's preset has it; None if t3d has no preset of that name."""
    # A stranger's text is compared, and no file is read for it.
    return _flat(presets.choose(run.spec, run.preset).config) if run.preset in presets.names() else None


def _flat(config: Config) -> dict[str, Any]:
    fields = {**vars(config), **vars(config.td3)}
    fields.pop("td3")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
