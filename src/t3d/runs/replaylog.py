"""The replay memory on disk: every slot once, in the order it was written, so that saving costs what is new.

A segment file is a sequence of blocks, as `blocks.py` lays them out. The open slot is not in here: it is part of the
state.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.errors import RunRefused
from t3d.replay import Replay
from t3d.runs import blocks, disk
from t3d.sealed import whole

# A segment is closed at this size: old rows are removed by whole segments.
_SEGMENT_BYTES = 16 << 20
_NAME = re.compile(r"\d{8}\.rows")


class Segment(NamedTuple):
    """A file of blocks."""

    name: str  # its first block's number
    bytes: int
    ends: list[int]  # a stream's position behind its last slot in here


class ReplayLog:
    """Append what is new in a replay memory to the run folder, and give it back.

    Args:
        folder: where the segments are.
        slot: the layout of a slot.
        n_envs: N, streams.
        ring: slots a stream has in memory; no block holds more.
    """

    def __init__(self, folder: Path, slot: np.dtype[Any], n_envs: int, ring: int) -> None:
        self._folder, self._slot = folder, slot
        self._kind = blocks.Kind(n_envs, slot.itemsize, ring)
        self._segments: list[Segment] = []
        self._damaged: dict[str, list[str]] = {}  # segments that can be mended, and what of them when they were read
        self._blocks = 0
        self._ends = [0] * n_envs  # positions behind the last slot on disk

    @property
    def ends(self) -> list[int]:
        """Of each stream the position behind its last slot in here."""
        return list(self._ends)

    @property
    def damage(self) -> list[str]:
        """What was not as it was written when the log was opened, and can be mended; a line a segment."""
        return [
            f"{self._folder / name}: {found[0]}" + f"; and in {len(found) - 1:,} blocks more" * (len(found) > 1)
            for name, found in self._damaged.items()
        ]

    def facts(self) -> dict[str, Any]:
        """Return what a manifest must say of the log as it now is."""
        return {"blocks": self._blocks, "segments": [segment._asdict() for segment in self._segments]}

    def new_bytes(self, replay: Replay) -> int:
        """Return how many bytes the next `append` writes, roughly."""
        new = sum(written - end for written, end in zip(replay.written, self._ends, strict=True))
        return blocks.bytes_with_parity(new * self._slot.itemsize + 1024)

    def append(self, replay: Replay) -> None:
        """Write the slots completed since the last time, as one block; return once it has reached the disk.

        Raises:
            OSError: they could not be written, and will be next time: once a flush has failed the system may have
                dropped what it was to flush, and a second one would say that all is well.
        """
        stops = [written - 1 for written in replay.written]  # all but the open slot
        if stops == self._ends:
            return
        # Where the memory has gone round since (nothing could be written for long) its older slots are lost.
        starts = [max(end, replay.oldest(env)) for env, end in enumerate(self._ends)]
        slots = [replay.rows(env, *span).tobytes() for env, span in enumerate(zip(starts, stops, strict=True))]
        block = blocks.encode(self._blocks, starts, slots, self._kind)
        segment = self._segments[-1] if self._segments else None
        begun = segment is None or segment.bytes + len(block) > _SEGMENT_BYTES
        name, length = (f"{self._blocks:08d}.rows", 0) if segment is None or begun else (segment.name, segment.bytes)
        disk.make_folder(self._folder)
        disk.extend(self._folder / name, length, block)
        disk.flush(self._folder / name)
        if not length:
            disk.flush(self._folder)
        self._segments[len(self._segments) - (not begun) :] = [Segment(name, length + len(block), stops)]
        self._ends, self._blocks = stops, self._blocks + 1

    def trim(self, needed: list[int]) -> None:
        """Remove the segments that hold nothing at or behind a position, for each stream the one in `needed`."""
        past = [all(e <= n for e, n in zip(segment.ends, needed, strict=True)) for segment in self._segments[:-1]]
        for segment in self._segments[: sum(past)]:
            if (path := self._folder / segment.name).exists():
                disk.remove(path)
        # The last of them stays named: it says where the first one that is left must begin.
        del self._segments[: max(0, sum(past) - 1)]

    def open(self, facts: dict[str, Any], first: list[int]) -> list[NDArray[Any]]:
        """Stand where a manifest says the log stood, and read each stream's slots from a position on.

        Args:
            facts: what `facts` returned then.
            first: of each stream the first position wanted.

        Returns:
            Of each stream the slots from there on, without a gap up to the last one; fewer where older ones are
            not on disk.

        Raises:
            RunRefused: a file is missing, too short, or damaged beyond mending. Nothing on disk has been changed.
        """
        try:
            segments = [
                Segment(str(s["name"]), whole(s["bytes"]), [whole(e) for e in s["ends"]]) for s in facts["segments"]
            ]
            count = whole(facts["blocks"])
            # Segments are cut and removed by name, here and nowhere else.
            if odd := [segment.name for segment in segments if not _NAME.fullmatch(segment.name)]:
                raise ValueError(f"{odd[0]!r} is not the name of a segment")
        except (KeyError, TypeError, ValueError) as error:
            raise _bad(self._folder, f"the manifest's description of it: {error!r}") from error
        self._damaged = {}
        found = [bytearray() for _ in self._ends]
        ends, number = [0] * len(self._ends), 0
        for segment in segments:
            if all(e <= f for e, f in zip(segment.ends, first, strict=True)):
                # Not needed, so it may have been removed.
                ends, number = list(segment.ends), -1
                continue
            for block in self._read(segment):
                if number not in (-1, block.number) or any(map(operator.lt, block.starts, ends)):
                    raise _bad(self._folder / segment.name, f"block {block.number} does not follow on the one before")
                if block.damage:
                    self._damaged.setdefault(segment.name, []).append(block.damage)
                for env, (start, part) in enumerate(zip(block.starts, block.slots, strict=True)):
                    if start > ends[env]:
                        found[env].clear()  # a gap: what lies before it follows on nothing
                    end = start + len(part) // self._slot.itemsize
                    found[env] += part[max(0, first[env] - start) * self._slot.itemsize :]
                    ends[env] = end
                number = block.number + 1
            if ends != segment.ends:
                raise _bad(self._folder / segment.name, f"ends at positions {ends}, not at {segment.ends}")
        if number not in (-1, count):
            raise _bad(self._folder, f"it holds {number} blocks, and {count} were written")
        self._segments, self._blocks, self._ends = segments, count, ends
        return [np.frombuffer(slots, self._slot) for slots in found]

    def cut(self) -> None:
        """Remove what lies behind the position that was opened: it will be computed again. Mend what was damaged."""
        known = {segment.name for segment in self._segments}
        for path in sorted(self._folder.iterdir()) if self._folder.is_dir() else []:
            if path.name not in known and _NAME.fullmatch(path.name):
                disk.remove(path)
        for segment in self._segments:
            path = self._folder / segment.name
            if segment.name in self._damaged:
                disk.replace(path, b"".join(block.as_written() for block in self._read(segment)))
            elif path.exists() and path.stat().st_size > segment.bytes:
                disk.cut(path, segment.bytes)

    def _read(self, segment: Segment) -> Iterator[blocks.Block]:
        path = self._folder / segment.name
        if path.is_symlink() or not path.is_file():
            raise _bad(path, "missing, or no plain file")
        if not 0 < segment.bytes <= path.stat().st_size:
            raise _bad(path, f"{path.stat().st_size:,} bytes, {segment.bytes:,} were written")
        number = int(path.stem)
        with path.open("rb") as file:
            while (offset := file.tell()) < segment.bytes:
                try:
                    block = blocks.read(file, segment.bytes - offset, number, self._kind)
                except ValueError as error:
                    raise _bad(path, str(error)) from error
                yield block
                number += 1


def _bad(path: Path, got: str) -> RunRefused:
    return RunRefused("the replay memory on disk is damaged", got=f"{path}: {got}", do="copy the run again if you can")
