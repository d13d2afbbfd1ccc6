"""The videos of a report, as they are: two at most, and small ones of the policies kept on the way."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from t3d.errors import RunRefused
from t3d.formats import MILESTONES
from t3d.reports.grouping import Group
from t3d.reports.read_runs import Run
from t3d.reports.wording import number
from t3d.storage.checked_files import PolicyHeader, read_policy_header

# All videos of a page together, before base64 adds a third.
BUDGET_BYTES = 1_200_000
MOST_CLIPS = 2
_SMALL_BYTES = 130_000  # of each small one
_PICTURE_BYTES, _PNG = 400_000, b"\x89PNG\r\n\x1a\n"
_WHEN = {"start": "At the start", "quarter": "After a quarter", "half": "Half way"}


class Clip(NamedTuple):
    """One video."""

    env: str
    label: str
    caption: str
    uri: str
    run: Path
    is_last: bool  # whether it shows its run's last policy


class Stage(NamedTuple):
    """A policy of a run as it learned."""

    when: str
    caption: str
    uri: str  # empty: the video is that of the last policy, which the page has already


def choose(groups: Sequence[Group]) -> tuple[list[Clip], list[tuple[str, str]]]:
    """Return the videos of a page, and of those left out the environment and a note.

    Two are shown: the best and the last policy of a single group, else the best ones of the first two groups.

    Args:
        groups: all of the page.
    """
    films = [(group, run, which, file) for group in groups for run, which, file in _files(group)]
    films.sort(key=lambda entry: entry[2] != "best")
    clips: list[Clip] = []
    notes: list[tuple[str, str]] = []
    left = BUDGET_BYTES
    for group, run, which, file in films:
        if len(clips) == MOST_CLIPS:
            notes.append((group.env, f"{file} is not shown: a page has {MOST_CLIPS} videos at most."))
            continue
        content, note = _read(file, left)
        if content is None:
            notes.append((group.env, note))
            continue
        left -= len(content)
        label = f"{group.label}: {which}" if len(groups) > 1 else f"{which} policy"
        uri = "data:video/mp4;base64," + base64.b64encode(content).decode()
        is_last = which == "last" or not (run.path / "video" / "last.mp4").is_file()
        clips.append(Clip(group.env, label, _caption(group, run, which), uri, run.path, is_last))
    return clips, notes


def stages(group: Group, clips: Sequence[Clip]) -> tuple[list[Stage], list[str]]:
    """Return how a run learned, from its start to its last policy, and a note for each video that is left out.

    Args:
        group: the only one of its environment.
        clips: the page's videos.

    Returns:
        Nothing where the last policy's video is none of them, or no policy on the way was filmed.
    """
    last = next((clip for clip in clips if clip.env == group.env and clip.is_last), None)
    run = next((run for run in group.runs if last and run.path == last.run), None)
    found: list[Stage] = []
    notes: list[str] = []
    for which in MILESTONES if run else ():
        assert run is not None
        file = run.path / "video" / f"{which}.mp4"
        if file.is_file():
            content, note = _read(file, _SMALL_BYTES)
            if content is None:
                notes.append(note)
            else:
                uri = "data:video/mp4;base64," + base64.b64encode(content).decode()
                found.append(Stage(_WHEN[which], _of_stage(run, which), uri))
    if run and found:
        found.append(Stage("At the end", _of_stage(run, "last"), ""))
    return found, notes


def seen_in(run: Path) -> tuple[str, list[str]]:
    """Return the picture of what a run sees, as a data URI, or nothing; and why it is left out."""
    file = run / "video" / "seen.png"
    if not file.is_file():
        return "", []
    content, note = _read(file, _PICTURE_BYTES, "PNG", _PNG)
    return ("", [note]) if content is None else ("data:image/png;base64," + base64.b64encode(content).decode(), [])


def _of_stage(run: Run, which: str) -> str:
    header = _policy_header(run, which)
    if header is None:
        return ""
    info = header.info
    text = f"{info.env_steps:,} steps" + (", untrained" if run.untrained_at(info.env_steps) else "")
    return text if info.return_mean is None else f"{text}, return {number(info.return_mean)}"


def nearest_the_median(returns: Sequence[float]) -> list[int]:
    """Return the places of some returns, those first that stand nearest the middle when ranked; the lower of two."""
    ranked = sorted(range(len(returns)), key=lambda i: returns[i])
    middle = (len(ranked) - 1) / 2
    return [ranked[rank] for rank in sorted(range(len(ranked)), key=lambda rank: (abs(rank - middle), rank))]


def _files(group: Group) -> list[tuple[Run, str, Path]]:
    """Take the seed nearest the median that has been filmed: the best one would flatter."""
    for i in nearest_the_median(group.returns[:, -1].tolist()):
        run = group.runs[i]
        files = [(run, which, run.path / "video" / f"{which}.mp4") for which in ("best", "last")]
        if films := [entry for entry in files if entry[2].is_file()]:
            return films
    return []


def _caption(group: Group, run: Run, which: str) -> str:
    seeds = len(group.runs)
    final = group.returns[group.runs.index(run), -1]
    rank = 1 + int((group.returns[:, -1] > final).sum())
    standing = f", number {rank} of {seeds} by final return" if seeds > 1 else ""
    best, last = (_policy_header(run, which) for which in ("best", "last"))
    same = ", which is its last one too" if which == "best" and best and last and best.sha256 == last.sha256 else ""
    header = best if which == "best" else last
    after = f", after {header.info.env_steps:,} steps" if header else ""
    if header and run.untrained_at(header.info.env_steps):
        after += " and no update: it is untrained"
    return f"Seed {run.seed}{standing}: its {which} policy{same}{after}"


def _policy_header(run: Run, which: str) -> PolicyHeader | None:
    """Return what a policy says of itself; None if it does not: then nothing is said of it."""
    path = run.path / "policy" / f"{which}.safetensors"
    try:
        with path.open("rb") as file:
            return read_policy_header(path, file)
    except (RunRefused, OSError):
        return None


def _read(file: Path, most_bytes: int, kind: str = "mp4", mark: bytes = b"ftyp") -> tuple[bytes | None, str]:
    """Return a file's bytes as they are, or None and why it is left out. Nothing is decoded: it may be a stranger's."""
    if (size := file.stat().st_size) > most_bytes:
        do = "; t3d video RUN films it smaller" if kind == "mp4" else ""
        return None, f"{file} is not shown: {size:,} bytes, and {most_bytes:,} are left{do}."
    content = file.read_bytes()
    if mark not in content[:8]:
        return None, f"{file} is not shown: it is no {kind}."
    return content, ""
