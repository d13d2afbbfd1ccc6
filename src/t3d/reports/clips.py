"""The videos of a report: one run's, small enough to stand in the page."""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from t3d import sealed
from t3d.errors import RunRefused
from t3d.reports.groups import Group
from t3d.reports.numbers import best_env_steps
from t3d.reports.reading import Run

# All videos of a page together, before base64 adds a third.
BUDGET_BYTES = 1_200_000
_MOST_BYTES = 1 << 28
_WIDTH = 320
_SECONDS = 10


class Clip(NamedTuple):
    """One video."""

    label: str
    caption: str
    uri: str


def of(groups: Sequence[Group], *, share: int = 1) -> tuple[list[Clip], list[str]]:
    """Return the videos of some groups, at most two of each, and notes on those left out.

    Args:
        groups: of one environment.
        share: with how many environments the page's budget is shared.
    """
    chosen = [(group, run, which, file) for group in groups for run, which, file in _files(group)]
    clips, notes = [], []
    for group, run, which, file in chosen:
        content, note = _read(file, BUDGET_BYTES // share // len(chosen))
        if note:
            notes.append(note)
        if content is None:
            continue
        label = f"{group.label}: {which}" if len(groups) > 1 else f"{which} policy"
        uri = "data:video/mp4;base64," + base64.b64encode(content).decode()
        clips.append(Clip(label, _caption(group, run, which), uri))
    return clips, notes


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
        if found := [entry for entry in files if entry[2].is_file()]:
            return found
    return []


def _caption(group: Group, run: Run, which: str) -> str:
    steps = best_env_steps(run) if which == "best" else max(run.evaluations)
    seeds = len(group.runs)
    final = group.returns[group.runs.index(run), -1]
    rank = 1 + int((group.returns[:, -1] > final).sum())
    standing = f", number {rank} of {seeds} by final return" if seeds > 1 else ""
    same = ", which is its last one too" if which == "best" and _best_is_last(run) else ""
    return f"Seed {run.seed}{standing}: its {which} policy{same}, after {steps:,} steps"


def _best_is_last(run: Run) -> bool:
    """Return whether its two policies have the same weights; of a folder that does not say, nothing is said."""
    try:
        best, last = (sealed.unseal(run.path / "policy" / f"{which}.json") for which in ("best", "last"))
    except RunRefused:
        return False
    found = best.get("weights_sha256")
    return found is not None and found == last.get("weights_sha256")


def _read(file: Path, limit: int) -> tuple[bytes | None, str]:
    """Return an mp4's bytes, made smaller if they are more than the limit, or None; and what is to be said of it."""
    not_shown = f"{file} is not shown: it is no mp4, or too large for a page."
    with file.open("rb") as opened:
        # Whatever a stranger calls so: what is no mp4 never enters a page.
        if opened.read(8)[4:] != b"ftyp" or file.stat().st_size > _MOST_BYTES:
            return None, not_shown
    as_written = sealed.film_is_as_written(file)
    if as_written is False:
        return None, f"{file} is not shown: it is not as it was written; t3d video films it again."
    small = file.read_bytes() if file.stat().st_size <= limit else _made_small(file, limit)
    if small is None:
        return None, not_shown
    return small, "" if as_written else f"{file} has no checksum at its end: had it changed, nothing would tell."


def _made_small(file: Path, limit: int) -> bytes | None:
    if importlib.util.find_spec("av") is None:
        return None
    import av

    try:
        return next((made for crf in (28, 36, 44) if len(made := _encoded(file, crf)) <= limit), None)
    except (av.FFmpegError, IndexError):  # a broken file, or one without a picture
        return None


def _encoded(file: Path, crf: int) -> bytes:
    import av

    made = io.BytesIO()
    with av.open(str(file)) as source, av.open(made, "w", format="mp4") as target:
        video = source.streams.video[0]
        rate = Fraction(video.average_rate or 30)
        width = min(_WIDTH, video.width // 2 * 2)
        height = round(video.height * width / video.width / 2) * 2
        stream = target.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for count, frame in enumerate(source.decode(video)):
            if count >= _SECONDS * rate:
                break
            target.mux(stream.encode(frame.reformat(width, height, "yuv420p")))
        target.mux(stream.encode())
    return made.getvalue()
