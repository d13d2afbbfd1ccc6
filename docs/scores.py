"""The score that the field holds methods against each other by: four robots, each against random play and TD3."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

Study = dict[str, Any]


class Robot(NamedTuple):
    """Returns that make 0 and 1 of the score: random play, and TD3 after a million steps."""

    random: float
    td3: float

    def score(self, returns: list[float]) -> float:
        """Return what the mean of some returns is worth."""
        return (statistics.mean(returns) - self.random) / (self.td3 - self.random)


ROBOTS = {
    "HalfCheetah-v4": Robot(-289, 10574),
    "Hopper-v4": Robot(19, 3226),
    "Walker2d-v4": Robot(3, 3946),
    "Ant-v4": Robot(-70, 3942),
}
AT = (100_000, 200_000, 300_000)


def at(run: dict[str, Any], env_steps: int, curve: str = "curve") -> float | None:
    """Return what a run's evaluation at some env steps gave; None if there was none."""
    found = [seen for step, seen in run.get(curve, run["curve"]) if env_steps <= step < env_steps + 1_000]
    return found[0] if found else None


def section(found: list[Study]) -> str:
    """Return the section on scores: of each method that was seen on at least one robot."""
    lines, times = [], []
    for method in sorted({study["study"].partition("-")[0] for study in found if study["env"] in ROBOTS}):
        mine = {study["env"]: study for study in found if study["study"] == f"{method}-{study['env'].lower()}"}
        lines += _rows(method, mine)
        times += _reached(method, mine)
    if not lines:
        return ""
    head = ["| method, env steps | " + " | ".join(ROBOTS) + " | score |", "|---|" + "---|" * (len(ROBOTS) + 1)]
    return (
        "## score\n\n"
        "The mean over four robots of (return - random play) / (TD3 after a million steps - random play), with\n"
        + "; ".join(f"{env}: {robot.random:,.0f} and {robot.td3:,.0f}" for env, robot in ROBOTS.items())
        + ".\nReturns are means over seeds (their number), of 10 episodes each: of the better of the two policies\n"
        "that an evaluation plays, and in the second row of the current one alone. *of 2* is the mean over\n"
        "two robots, where the others have not been trained yet, and no score to hold against others.\n\n"
        + "\n".join([*head, *lines, *times])
        + "\n"
    )


def _runs(studies: dict[str, Study], env: str) -> list[dict[str, Any]]:
    return list(studies[env]["runs"]) if env in studies else []


def _rows(method: str, studies: dict[str, Study]) -> list[str]:
    rows = []
    for env_steps in AT:
        for curve, name in (("curve", ""), ("curve_current", ", current policy")):
            cells, parts = [], []
            for env, robot in ROBOTS.items():
                runs = _runs(studies, env)
                seen = [value for run in runs if (value := at(run, env_steps, curve)) is not None]
                cells.append(f"{statistics.mean(seen):,.0f} ({len(seen)})" if seen else "")
                if seen:
                    parts.append(robot.score(seen))
            if parts:
                of = f" of {len(parts)}" if len(parts) < len(ROBOTS) else ""
                rows.append(
                    f"| {method}, {env_steps:,}{name} | {' | '.join(cells)} | {statistics.mean(parts):.2f}{of} |"
                )
    return rows


def _reached(method: str, studies: dict[str, Study]) -> list[str]:
    """Return when the mean score first was 1, of the runs on two threads, if it was."""
    trained = {
        robot: [run for run in _runs(studies, env) if run["engine"]["threads"] == 2] for env, robot in ROBOTS.items()
    }
    if not all(trained.values()):
        return []
    runs = [run for some in trained.values() for run in some]
    for k in range(min(len(run["curve"]) for run in runs)):
        score = statistics.mean(robot.score([run["curve"][k][1] for run in some]) for robot, some in trained.items())
        if score >= 1:
            env_steps, walls = runs[0]["curve"][k][0], [run["curve_wall_s"][k] / 60 for run in runs]
            return [
                f"\nThe score of `{method}` first was 1 at some {env_steps:,} env steps, {min(walls):.0f} to "
                f"{max(walls):.0f} minutes into each run:\nof the {len(runs)} runs on two threads, one at a time, "
                "evaluations included, the seconds until a process\nhas started not."
            ]
    return []


def screen(found: list[Study]) -> str:
    """Return what has been seen of changes to plain TD3 at half the batch, before any is kept."""
    if not found:
        return ""
    names = {
        study["study"].split("-")[1]: " ".join(study["options"].get("levers", "nothing").split()) for study in found
    }
    robots = sorted({study["env"] for study in found})
    lines = ["| changed | " + " | ".join(robots) + " |", "|---|" + "---|" * len(robots)]
    for name, levers in names.items():
        mine = {study["env"]: study for study in found if study["study"].split("-")[1] == name}
        lines.append(f"| {levers} | " + " | ".join(_area(mine[env]) if env in mine else "" for env in robots) + " |")
    return (
        "## the screen\n\n"
        "Cheap changes to plain TD3 at batch 128, 100,000 steps, seeds from 100 on, which nothing else uses: the mean\n"
        "return of all evaluations, mean and spread over seeds (their number). Three seeds decide what is tried with\n"
        "more, and nothing else.\n\n" + "\n".join(lines) + "\n"
    )


def _area(study: Study) -> str:
    areas = [statistics.fmean(seen for _, seen in run["curve"]) for run in study["runs"]]
    spread = f" ± {statistics.stdev(areas):,.0f}" if len(areas) > 1 else ""
    return f"{statistics.fmean(areas):,.0f}{spread} ({len(areas)})"
