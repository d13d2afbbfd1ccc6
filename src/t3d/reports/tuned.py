"""The page of `t3d tune`: what was confirmed first, then how the search went. Numbers come as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t3d.reports import html
from t3d.reports.wording import counted, number, span, steps_of

_SURE, _UNSURE = "Better than the default.", "No better than the default."


def write(numbers: dict[str, Any], out: Path) -> Path:
    """Write the page.

    Args:
        numbers: as `tuning.result.gather` has them.
        out: the file.

    Raises:
        RunRefused: it cannot be written.
    """
    return html.write(render(numbers), out)


def render(numbers: dict[str, Any]) -> str:
    """Return the page's text."""
    trials = numbers["trials"]
    states = {state: sum(t["state"] == state for t in trials) for state in ("played", "stopped", "failed", "not ended")}
    slices = [entry for entry in numbers["slices"] if entry["points"]]
    most = max(numbers["importances"].values(), default=1.0) or 1.0
    return html.render(
        "tune.html.j2",
        "tune.js",
        ["page.css", "tune.css"],
        study=numbers,
        verdict=verdict(numbers),
        states=[f"{count} {state}" for state, count in states.items() if count],
        failed=[(t["number"], seed, text) for t in trials for seed, text in t["failed"].items()],
        groups=_groups(numbers),
        bars=[(name, share, 100 * share / most) for name, share in numbers["importances"].items()],
        slices=slices,
        data={"trials": trials, "best": numbers["best"], "slices": slices},
    )


def verdict(numbers: dict[str, Any]) -> tuple[str, str]:
    """Say whether the best options are better than the default: a word and the evidence."""
    if numbers["is_default"]:
        return "The default is the best that was found.", "No other options did better; there was nothing to confirm."
    if numbers["confirmed"] is None:
        return "Not confirmed.", (
            f"The best of {counted(len(numbers['trials']), 'trial')} looks better than it is; "
            "--confirm 10 holds it against the default on fresh seeds."
        )
    (seen,) = numbers["confirmed"]["comparisons"]
    word = _UNSURE
    if seen["called"]:
        word = _SURE if seen["mean"]["value"] > 0 else "Worse than the default."
    seeds = " and ".join(map(str, dict.fromkeys(seen["seeds"])))
    interval = f", 95 % interval {span(seen['mean'])}" if seen["mean"]["low"] is not None else ""
    return word, (
        f"After {steps_of(seen)}, over {seeds} fresh seeds each, its mean return less the default's is "
        f"{number(seen['mean']['value'])}{interval}. {seen['verdict']}"
    )


def _groups(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for the best options and one for the default, on fresh seeds."""
    if numbers["confirmed"] is None:
        return []
    return [
        {
            "label": label,
            "seeds": len(group["runs"]),
            "final": group["scores"]["final"]["mean"],
            "iqm": group["scores"]["final"]["iqm"],
            "area": group["scores"]["area"]["mean"],
        }
        for label, group in zip(("found", "default"), numbers["confirmed"]["groups"], strict=True)
    ]
