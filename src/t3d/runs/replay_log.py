"""The replay memory on disk: every slot once, in the order it was written, so that saving costs what is new.

A segment file is a head and a sequence of blocks, as `replay_blocks.py` lays them out. The open slot is not in here: it
is part of the state.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t3d.errors import RunRefused
from t3d.formats import ReplayState, SegmentState
from t3d.replay import NOTHING, Replay
from t3d.runs import replay_blocks
from t3d.storage import disk
from t3d.storage.append_log import AppendLog

# A segment is closed at this size: old rows are removed by whole segments.
_SEGMENT_BYTES = 16 << 20
_NAME = re.compile(r"\d{8}\.rows")


class ReplayLog:
    """Append what is new in a replay memory to the run folder, and give it back.

    Args:
        folder: where the segments are.
        run: the run's id.
        slot: the layout of a slot.
        n_envs: N, streams.
        ring: slots a stream has in memory; no block holds more.
    """

    def __init__(self, folder: Path, run: str, slot: np.dtype[Any], n_envs: int, ring: int) -> None:
        self._folder, self._slot = folder, slot
        self._kind = replay_blocks.Kind(run, n_envs, slot.itemsize, ring)
        self._closed: list[SegmentState] = []  # segments that nothing is appended to any more
        self._log: AppendLog | None = None  # the one behind them
        self._blocks = 0
        self._ends = [0] * n_envs  # of each stream the position behind its last slot on disk
        self._whole: set[str] = set()  # segments that were all there when they were last looked at
        self.lost = ""  # what was not there, or not as it was written, when this was opened

    @property
    def state(self) -> ReplayState:
        """What a manifest must say of the log as it now is."""
        return ReplayState(self._blocks, self._segments())

    def _segments(self) -> list[SegmentState]:
        if self._log is None:
            return list(self._closed)
        now = self._log.state
        return [*self._closed, SegmentState(now.bytes, now.sha256, self._log.path.name, list(self._ends))]

    def new_bytes(self, replay: Replay) -> int:
        """Return how many bytes the next `append` writes, roughly."""
        new = sum(written - end for written, end in zip(replay.written, self._ends, strict=True))
        return new * self._slot.itemsize + 1024

    def append(self, replay: Replay) -> None:
        """Write the slots completed since the last time, as one block; return once it has reached the disk.

        Raises:
            OSError: they could not be written, and will be next time; or what was written before is gone.
        """
        for segment in self._segments():
            if segment.name in self._whole:
                path = self._folder / segment.name
                disk.refuse_shorter(path, path.stat().st_size, segment.bytes)
        stops = [written - 1 for written in replay.written]  # all but the open slot
        if stops == self._ends:
            return
        # Where the memory has gone round since (nothing could be written for long) its older slots are lost.
        starts = [max(end, replay.oldest(env)) for env, end in enumerate(self._ends)]
        slots = [replay.rows(env, *span).tobytes() for env, span in enumerate(zip(starts, stops, strict=True))]
        block = replay_blocks.encode(self._blocks, starts, slots, self._kind)
        log, closed = self._log, self._closed
        if log is None or log.length + len(block) > _SEGMENT_BYTES:
            log, closed = AppendLog(self._folder / f"{self._blocks:08d}.rows"), self._segments()
            block = replay_blocks.encode_head(self._kind) + block
        disk.make_folder(self._folder)
        log.append(block)
        log.flush()
        self._log, self._closed, self._ends, self._blocks = log, closed, stops, self._blocks + 1
        self._whole.add(log.path.name)

    def move(self, folder: Path) -> None:
        """Go on with the same files in a folder that has another name by now."""
        self._folder = folder
        if self._log is not None:
            self._log.path = folder / self._log.path.name

    def trim(self, needed: list[int]) -> None:
        """Remove the segments that hold nothing at or behind a position, for each stream the one in `needed`."""
        past = [all(e <= n for e, n in zip(segment.ends, needed, strict=True)) for segment in self._closed]
        for segment in self._closed[: sum(past)]:
            if (path := self._folder / segment.name).exists():
                disk.remove(path)
        del self._closed[: sum(past)]

    def open(self, state: ReplayState, first: list[int]) -> list[NDArray[Any]]:
        """Stand where a manifest says the log stood, and read each stream's slots from a position on.

        Args:
            state: what `state` was then.
            first: of each stream the first position wanted.

        Returns:
            Of each stream the slots from there on; fewer, where more are wanted than a ring and the files can hold.
            One that is lost is empty: no transition begins there, nor in the slot before it, whose next observation
            stood in it, nor in those behind it that are seen together with its frame. `lost` says where.

        Raises:
            RunRefused: a segment is another run's. Nothing on disk has been changed.
            OSError: one cannot be read.
        """
        self._blocks, self._closed, self._log, self._whole = state.blocks, list(state.segments), None, set()
        self._ends = list(state.segments[-1].ends) if state.segments else [0] * len(first)
        # A stranger's manifest may say anything: no memory is taken for what can be neither on disk nor in a ring.
        paths = (self._folder / segment.name for segment in self._closed)
        on_disk = sum(path.stat().st_size for path in paths if path.is_file())
        most = on_disk // self._slot.itemsize + self._kind.most_slots
        wanted, first = first, [max(start, end - most) for start, end in zip(first, self._ends, strict=True)]
        slots_of = [np.zeros(end - start, self._slot) for start, end in zip(first, self._ends, strict=True)]
        there = [np.zeros(len(slots) + 1, bool) for slots in slots_of]
        problems: list[str] = []
        for segment in state.segments:
            # One that is not needed may have been removed.
            if any(end > start for end, start in zip(segment.ends, first, strict=True)):
                problems += self._read(segment, first, slots_of, there)
        for slots, is_there, cut in zip(slots_of, there, np.less(wanted, first), strict=True):
            is_there[-1] = True  # the open slot: it stands in the state
            slots["ended"][~(is_there[:-1] & is_there[1:] & _frames_before(slots, is_there[:-1], not cut))] = NOTHING
        count = sum(int(np.count_nonzero(~is_there)) for is_there in there)
        self.lost = f"{count:,} slots of the replay memory are lost: {'; '.join(problems)}"[:1000] if count else ""
        return slots_of

    def _read(
        self, segment: SegmentState, first: list[int], slots_of: list[NDArray[Any]], there: list[NDArray[np.bool_]]
    ) -> list[str]:
        """Copy a segment's slots to where they belong, note which are there, and return what is wrong with it."""
        log = AppendLog(self._folder / segment.name)
        content = log.read(segment.bytes)
        sound = (log.length, log.state.sha256) == (segment.bytes, segment.sha256)
        if log.length == segment.bytes:
            self._whole.add(segment.name)
        if sound and segment is self._closed[-1]:
            # A damaged one is not appended to: it will be searched for whole blocks whenever it is opened.
            self._log = log
            self._closed.pop()
        whole, bad = replay_blocks.read(content, self._kind, sound=sound)
        run = replay_blocks.run_of(content)
        if run not in ("", self._kind.run) or not (sound or bad or log.length < segment.bytes):
            raise RunRefused(
                "a part of the replay memory on disk is another run's",
                got=f"{log.path}: run {run[:16]}, checksum {log.state.sha256}",
                expected=f"run {self._kind.run[:16]}, checksum {segment.sha256}",
                do="copy the run again",
            )
        for block in whole:
            for env, (start, part) in enumerate(zip(block.starts, block.slots, strict=True)):
                slots = np.frombuffer(part, self._slot)
                begin, end = max(start, first[env]), min(start + len(slots), segment.ends[env], self._ends[env])
                if begin < end:
                    slots_of[env][begin - first[env] : end - first[env]] = slots[begin - start : end - start]
                    there[env][begin - first[env] : end - first[env]] = True
        if log.length < segment.bytes:
            begin, _ = bad.pop() if bad and bad[-1][1] == log.length else (log.length, 0)
            bad.append((begin, segment.bytes))
        return [f"{log.path}: bytes {begin:,} to {end:,} are not as they were written" for begin, end in bad]

    def cut(self) -> None:
        """Remove what lies behind the position that was opened: it will be computed again."""
        lengths = {segment.name: segment.bytes for segment in self._segments()}
        for path in sorted(self._folder.iterdir()) if self._folder.is_dir() else []:
            if path.name in lengths and path.stat().st_size > lengths[path.name]:
                disk.cut(path, lengths[path.name])
            elif path.name not in lengths and _NAME.fullmatch(path.name):
                disk.remove(path)


def _frames_before(slots: NDArray[Any], there: NDArray[np.bool_], before: bool) -> NDArray[np.bool_]:
    """Return of which slots all frames are there that are seen together with their own.

    Args:
        slots: of a stream.
        there: which of them are.
        before: whether those before the first of them are.
    """
    whole = np.ones(len(slots), bool)
    if "behind" in (slots.dtype.names or ()):
        for back in range(1, int(slots["behind"].max(initial=0)) + 1):
            earlier = np.concatenate([np.full(min(back, len(slots)), before), there[: max(0, len(slots) - back)]])
            whole &= earlier | (slots["behind"] < back)
    return whole
