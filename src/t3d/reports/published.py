"""Published returns: who measured what, in which version of an environment, by which statistic."""

from __future__ import annotations

import csv
import itertools
import re
from importlib import resources
from typing import NamedTuple

_VERSION = re.compile(r"-v(\d+)$")


class Reference(NamedTuple):
    """One source's returns in one environment, by one statistic."""

    source: str
    algorithm: str
    env: str
    statistic: str
    note: str
    seeds: int
    points: tuple[tuple[int, float, float | None], ...]  # env steps, return, spread over seeds (None: not given)
    warning: str  # empty if measured in the very environment asked for


def find(env: str) -> list[Reference]:
    """Return what is published on an environment's family, the same version first.

    Args:
        env: as a run records it: an id, or module:Id.
    """
    env_id = env.rsplit(":", 1)[-1]
    sources: dict[tuple[str, ...], list[dict[str, str]]] = {}
    text = resources.files(__package__).joinpath("references.csv").read_text("utf-8")
    for row in csv.DictReader(text.splitlines()):
        if _family(row["env_id"]) == _family(env_id):
            key = tuple(row[name] for name in ("source", "algorithm", "env_id", "statistic", "note"))
            sources.setdefault(key, []).append(row)
    references = [_reference(rows, env_id) for rows in sources.values()]
    return sorted(references, key=lambda reference: (reference.warning != "", reference.algorithm != "TD3"))


def at(reference: Reference, frames: int) -> float | None:
    """Return a reference's return after so many frames, by a straight line between its points; None outside them.

    Those who are cited played each action for one frame: their env steps are frames.
    """
    for (x0, y0, _), (x1, y1, _) in itertools.pairwise(reference.points):
        if x0 <= frames <= x1:
            return y0 + (y1 - y0) * (frames - x0) / (x1 - x0)
    first = reference.points[0]
    return first[1] if first[0] == frames else None


def _reference(rows: list[dict[str, str]], env_id: str) -> Reference:
    first = rows[0]
    points = [(int(r["env_steps"]), float(r["mean"]), float(r["spread"]) if r["spread"] else None) for r in rows]
    return Reference(
        source=first["source"],
        algorithm=first["algorithm"],
        env=first["env_id"],
        statistic=first["statistic"],
        note=first["note"],
        seeds=int(first["n_seeds"]),
        points=tuple(sorted(points, key=lambda point: point[0])),
        warning="" if first["env_id"] == env_id else f"measured in {first['env_id']}, not in {env_id}",
    )


def _family(env_id: str) -> str:
    return _VERSION.sub("", env_id)
