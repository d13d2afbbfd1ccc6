"""The page of `t3d explain`: numbers from `diagnosis/explained.py`, code from the source, put together for the page."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t3d.config import Config
from t3d.diagnosis.explained import Explained, Judged, Plane, Update
from t3d.reports import html, listing, videos
from t3d.reports.step_numbers import figure, told
from t3d.reports.steps import STEPS
from t3d.reports.videos import BUDGET_BYTES
from t3d.reports.wording import percent

_DIGITS = 5
# More numbers of a vector are not read by anybody.
MOST_SHOWN = 8


def render(explained: Explained) -> str:
    """Return the page's text."""
    update, config = explained.update, explained.record.config
    notes = list(explained.notes)
    seen, left_out = videos.seen_in(Path(explained.path))
    notes += left_out
    film = explained.film
    if film and len(film.mp4) > BUDGET_BYTES:
        notes.append(f"The film is not shown: {len(film.mp4):,} bytes, at most {BUDGET_BYTES:,}; film fewer frames.")
        film = None
    return html.render(
        "explain.html.j2",
        "explain.js",
        ["page.css", "explain.css"],
        run=explained,
        title=explained.record.spec.title,
        config=config,
        notes=notes,
        lead=_lead(update) if update else [],
        steps=[_step(text.number, explained) for text in STEPS],
        table=_table(explained) if update else [],
        pictures=[[_uri("image/png", picture) for picture in of] for of in zip(*explained.pictures, strict=True)],
        seen=seen,
        film=film and _uri("video/mp4", film.mp4),
        film_note=_film_note(explained) if explained.judged else "",
        maps=_maps(explained.plane),
        data={
            "update": update and _update(update, config),
            "followed": [followed.row for followed in explained.followed],
            "episode": explained.judged and _episode(explained.judged),
            "pace": film.pace if film else None,
            "plane": explained.plane and _plane(explained.plane),
        },
    )


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _step(step: int, explained: Explained) -> dict[str, Any]:
    (text,) = [text for text in STEPS if text.number == step]
    sizes = {
        "B": explained.record.config.batch_size,
        "S": explained.spaces.seen_size,
        "A": explained.spaces.action_size,
    }
    parts = [listing.step(step), *map(listing.definition, text.code)]
    update = explained.update
    rows, facts = told(step, update, explained.followed, explained.record.config) if update else ([], [])
    own = next((own for own in explained.own if step in own.steps), None)
    return {
        **text._asdict(),
        "own": own,
        "files": list(dict.fromkeys(file for file, _ in parts)),
        "shapes": [] if own else [f"{name} {tuple(sizes[letter] for letter in of)}" for name, of in text.shapes],
        "code": "\n\n\n".join(code for _, code in parts) if own is None else own.code,
        "rows": rows,
        "facts": facts,
        "is_drawn": update is not None and all(getattr(update, name) is not None for name in _DRAWN.get(step, ())),
    }


# What the histograms of some steps are made of, and a changed algorithm may not say.
_DRAWN = {5: ["next_action"], 7: ["next_q1", "next_q2"], 8: ["next_q"]}


def _lead(update: Update) -> list[str]:
    """Return what the batch shows at a glance."""
    off = np.abs(update.q1 - update.target_q)
    smoothing = np.abs(update.target_q - update.target_q_unsmoothed)
    smaller = []
    if update.next_q is not None and update.next_q1 is not None:
        share = float((update.next_q1 == update.next_q).mean())
        smaller = [f"Q1 was the smaller twin in {percent(share)} of this batch."]
    return [
        *smaller,
        f"Smoothing moved a target by {figure(float(smoothing.mean()))} on average.",
        f"Q1 is off its target by {figure(float(off.mean()))}, and targets are about {figure(_typical(update))}.",
    ]


def _typical(update: Update) -> float:
    return float(np.median(update.target_q))


def _table(explained: Explained) -> list[tuple[str, list[str]]]:
    """Return what each of the followed transitions is: a row a part."""
    update, followed = explained.update, explained.followed
    assert update is not None
    rows = [("chosen because", [one.why for one in followed])]
    beside, behind = (" beside the frames", explained.spaces.pixels) if explained.pictures else ("", 0)
    for name in ("obs", "action", "reward", "next_obs"):
        values = getattr(update, name)
        if name in ("obs", "next_obs"):
            name, values = name + beside, values[:, behind:]
        if values.size:
            rows.append((name, [vector(np.atleast_1d(values[one.row])) for one in followed]))
    ends = ["ended truly" if update.terminated[one.row] else "goes on" for one in followed]
    ages = [f"{int(update.age[one.row]):,} env steps ago" for one in followed]
    return [*rows, ("terminated", ends), ("stored", ages)]


def vector(values: NDArray[Any]) -> str:
    """Write a vector for people, its first numbers if it has many."""
    shown = ", ".join(figure(float(value)) for value in values[:MOST_SHOWN])
    more = f", and {len(values) - MOST_SHOWN} more" if len(values) > MOST_SHOWN else ""
    return shown + more


def _film_note(explained: Explained) -> str:
    judged, gamma = explained.judged, explained.record.config.td3.gamma
    assert judged is not None
    steps = len(judged.reward)
    note = f"{steps:,} steps, played without noise by the actor of this checkpoint; its return is " + figure(
        float(judged.reward.sum())
    )
    if judged.terminated:
        return f"{note}. It truly ended: what was obtained is known to the last step."
    half = math.ceil(math.log(2) / -math.log(gamma)) if 0 < gamma < 1 else steps
    return (
        f"{note}. A time limit cut it: what would have followed is unknown, and the critics' own word of it is counted "
        f"as obtained. In the last {min(steps, half):,} steps, drawn fainter, that word is more than half of it."
    )


def _maps(plane: Plane | None) -> list[str]:
    if plane is None:
        return []
    actions = len(plane.action)
    return ["the smaller of Q1 and Q2", *(f"action {i + 1}" if actions > 1 else "action" for i in range(actions))][:5]


def _update(update: Update, config: Config) -> dict[str, Any]:
    """Return what the page's charts draw of the batch."""
    names = ("reward", "terminated", "next_q1", "next_q2", "next_q", "target_q", "target_q_unsmoothed", "q1", "q2")
    named = {name: _said(getattr(update, name)) for name in (*names, "q1_after", "critic_lag")}
    named["played_q1_moved"] = _list(update.played_q1_after - update.played_q1)
    for name in ("next_action", "smoothed", "actor_lag"):
        values = getattr(update, name)
        named[name] = None if values is None else _list(values.T)
    return named | {"gamma": config.td3.gamma}


def _said(values: NDArray[Any] | None) -> Any:
    return None if values is None else _list(values)


def _episode(judged: Judged) -> dict[str, Any]:
    names = ("q1", "q2", "obtained", "word")
    return {name: _list(getattr(judged, name)) for name in names} | {"action": _list(judged.action.T)}


def _plane(plane: Plane) -> dict[str, Any]:
    return {
        "names": plane.names,
        "low": plane.low,
        "high": plane.high,
        "maps": [_list(plane.q), *(_list(action) for action in plane.action)],
        "seen": plane.seen.astype(int).tolist(),
        "batch": _list(plane.batch),
        "episode": _list(plane.episode),
    }


def _list(values: NDArray[Any]) -> Any:
    """Return an array as lists of numbers of five digits: what is not finite is no number in JSON."""
    if values.ndim > 1:
        return [_list(row) for row in values]
    return [float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None for value in values.tolist()]
