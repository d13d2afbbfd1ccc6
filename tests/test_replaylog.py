"""The replay memory on disk against plain lists: whatever was written, saved, trimmed, reopened and cut."""

import copy
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t3d.config import Config
from t3d.errors import RunRefused
from t3d.replay import NOTHING, STEP, TERMINATED, TRUNCATED, Replay
from t3d.runs import replaylog
from t3d.runs.replaylog import ReplayLog
from t3d.training import slots_needed

OBS, ACTION = 2, 1
SMALL_SEGMENT = 300  # bytes: a few blocks


class Streams:
    """A memory, its log, and the same in plain lists: of each stream every slot it has ever completed."""

    def __init__(self, folder, n_envs, ring):
        self.folder, self.n_envs, self.ring = folder, n_envs, ring
        self.config = Config(n_envs=n_envs, buffer_size=n_envs * ring)
        self.clock = 0.0
        self.replay, self.log = self.new()
        self.ended = [True] * n_envs
        self.lengths = [0] * n_envs  # of the unfinished episodes
        self.slots = [[] for _ in range(n_envs)]
        self.on_disk = [{} for _ in range(n_envs)]  # position: slot
        self.kept = []
        self.begin()

    def new(self):
        replay = Replay(self.config.buffer_size, self.n_envs, OBS, ACTION)
        return replay, ReplayLog(self.folder, replay.slot, self.n_envs, self.ring)

    def begin(self):
        self.obs = np.float32([self.number(2) if self.ended[i] else self.obs[i] for i in range(self.n_envs)])
        self.replay.begin(self.obs, np.array(self.ended))
        self.lengths = [0 if ended else n for ended, n in zip(self.ended, self.lengths, strict=True)]
        self.ended = [False] * self.n_envs

    def number(self, size=1):
        self.clock += 1
        return [self.clock + i / 8 for i in range(size)]

    def step(self, ends):
        """Take a step that ends each stream's episode as it says."""
        if any(self.ended):
            self.begin()
        ends = ends[: self.n_envs]
        action, reward = np.float32([self.number() for _ in ends]), np.float32([self.number()[0] for _ in ends])
        next_obs = np.float32([self.number(2) for _ in ends])
        for i, end in enumerate(ends):
            self.slots[i].append((*self.obs[i], action[i, 0], reward[i], end))
            if end != STEP:
                self.slots[i].append((*next_obs[i], None, None, NOTHING))
        ended = np.array(ends)
        self.replay.add(action, reward, ended == TERMINATED, ended == TRUNCATED, next_obs)
        self.obs, self.ended = next_obs, [end != STEP for end in ends]
        self.lengths = [n + 1 for n in self.lengths]

    def completed(self, i):
        """Return a stream's slots before its open one; a final slot is open until the next episode begins."""
        return self.slots[i][:-1] if self.ended[i] else self.slots[i]

    def save(self, trim):
        """Append what is new, and remember what a manifest would say."""
        for i in range(self.n_envs):
            oldest = max(0, len(self.completed(i)) + 1 - self.ring)
            known = max(self.on_disk[i], default=-1) + 1
            self.on_disk[i] |= {p: s for p, s in enumerate(self.completed(i)) if p >= max(known, oldest)}
        self.log.append(self.replay)
        whole = SimpleNamespace(**{k: v for k, v in vars(self).items() if k not in ("log", "kept", "config", "folder")})
        facts = {"written": list(self.replay.written), "envs": {"length": list(self.lengths)}}
        self.kept = [*self.kept[-1:], (self.log.facts(), facts, copy.deepcopy(vars(whole)))]
        if trim:
            needs = [slots_needed(self.config, facts) for _, facts, _ in self.kept]
            self.log.trim([min(positions) for positions in zip(*needs, strict=True)])

    def reopen(self, which):
        """Go back to a kept manifest, as a resumed run does, and compare everything with what it was then."""
        if not self.kept:
            return
        which %= len(self.kept)
        facts, state, was = self.kept[which]
        first = slots_needed(self.config, state)
        before, self.log = self.new()
        rows = self.log.open(facts, first)
        for i, found in enumerate(rows):
            check_rows(found, was["on_disk"][i], first[i], state["written"][i] - 1)
        before.restore(state["written"], rows, was["obs"])
        check_same_memory(before, was["replay"], self.ring)
        self.log.cut()
        assert self.log.facts()["blocks"] == facts["blocks"]
        self.kept = self.kept[: which + 1]
        vars(self).update(copy.deepcopy(was) | {"replay": before})


def check_rows(found, on_disk, first, stop):
    start = stop
    while start - 1 in on_disk and start > first:
        start -= 1
    expected = [on_disk[p] for p in range(start, stop)]
    assert len(found) == len(expected)
    for row, (obs0, obs1, action, reward, ended) in zip(found, expected, strict=True):
        assert (*row["obs"], row["ended"]) == (obs0, obs1, ended)
        if ended != NOTHING:
            assert (row["action"][0], row["reward"]) == (action, reward)


def check_same_memory(memory, was, ring):
    """Everything that sampling can see is the same."""
    assert (memory.written, len(memory), memory._filled) == (was.written, len(was), was._filled)
    assert len(memory._slots) == memory._n_envs * (ring + 1)
    if not len(memory):
        return
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    for size in (1, 7, 64):
        index = memory.draw(one, size)
        np.testing.assert_array_equal(index, was.draw(other, size))
        for part, expected in zip(memory.sample(index), was.sample(index), strict=True):
            assert part.tobytes() == expected.tobytes()


ENDS = st.tuples(*[st.sampled_from([STEP, STEP, STEP, TERMINATED, TRUNCATED])] * 3)
ACTIONS = st.one_of(
    st.lists(ENDS, min_size=1, max_size=12).map(lambda steps: ("steps", steps)),
    st.booleans().map(lambda trim: ("save", trim)),
    st.integers(0, 1).map(lambda which: ("reopen", which)),
)


def play(folder, n_envs, ring, actions):
    streams = Streams(folder, n_envs, ring)
    for what, how in [*actions, ("save", True), ("reopen", 0)]:
        if what == "steps":
            for ends in how:
                streams.step(list(ends))
        else:
            getattr(streams, what)(how)
    return streams


def many_examples(count):
    @settings(max_examples=count, deadline=None, derandomize=True)
    @given(n_envs=st.integers(1, 3), ring=st.integers(3, 9), actions=st.lists(ACTIONS, max_size=14))
    def check(n_envs, ring, actions):
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(replaylog, "_SEGMENT_BYTES", SMALL_SEGMENT)
            patch.setattr("t3d.runs.disk.flush", lambda path: None)
            play(Path(folder) / "replay", n_envs, ring, actions)

    check()


def test_the_log_gives_back_what_plain_lists_hold():
    many_examples(150)


@pytest.mark.slow
def test_the_log_gives_back_what_plain_lists_hold_in_many_more_cases():
    many_examples(5_000)


def test_a_ring_gone_round_many_times_leaves_few_segments_and_reopens_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(replaylog, "_SEGMENT_BYTES", SMALL_SEGMENT)
    steps = ("steps", [(STEP, STEP, STEP), (STEP, TERMINATED, STEP), (TRUNCATED, STEP, TERMINATED)])
    streams = play(tmp_path / "replay", 3, 5, [steps, ("save", True), ("reopen", 1)] * 20)
    assert min(streams.replay.written) > 12 * 5
    assert len(list((tmp_path / "replay").iterdir())) <= 4
    first = min(int(path.stem) for path in (tmp_path / "replay").iterdir())
    assert first > 10


def test_it_opens_while_the_oldest_segment_left_is_still_needed(tmp_path, monkeypatch):
    # As in any long run: a segment holds the blocks of many checkpoints, and the one before it is gone.
    monkeypatch.setattr(replaylog, "_SEGMENT_BYTES", 4 * SMALL_SEGMENT)
    steps = ("steps", [(STEP, STEP, STEP), (STEP, TERMINATED, STEP), (TRUNCATED, STEP, TERMINATED)])
    play(tmp_path / "replay", 3, 5, [steps, ("save", True), ("reopen", 1)] * 20)
    assert min(int(path.stem) for path in (tmp_path / "replay").iterdir()) > 0


def test_what_was_not_saved_in_time_is_a_gap_and_what_follows_it_comes_back(tmp_path):
    long = ("steps", [(STEP, STEP, STEP)] * 23)
    streams = play(tmp_path / "replay", 2, 6, [("steps", [(STEP, STEP, STEP)]), ("save", True), long, ("save", True)])
    assert sorted(streams.on_disk[0]) == [0, *range(19, 24)]


def opened(tmp_path, change):
    """Save three blocks in two segments, change the manifest, and open the log by it."""
    streams = Streams(tmp_path / "replay", 2, 50)
    for _ in range(3):
        streams.step([STEP, STEP])
        streams.save(trim=False)
    facts, state, _ = streams.kept[-1]
    change(facts)
    log = streams.new()[1]
    return log.open(facts, slots_needed(streams.config, state))


def repeat(facts):
    facts["segments"] += facts["segments"][-1:]


@pytest.mark.parametrize(
    "change",
    [
        repeat,
        lambda facts: facts["segments"].reverse(),
        lambda facts: facts["segments"].pop(),
        lambda facts: facts["segments"].pop(0),
        lambda facts: facts.update(blocks=2),
        lambda facts: facts.update(blocks=-1),
        lambda facts: facts["segments"][1].update(ends=[2, 3]),
        lambda facts: facts["segments"][0].update(ends=[2]),
        lambda facts: facts["segments"][0].update(name="../../notes.txt"),
        lambda facts: facts["segments"][0].update(name="/etc/hostname", ends=[0, 0]),
        lambda facts: facts["segments"][0].update(bytes=10**15),
        lambda facts: facts["segments"][0].update(bytes=0),
        lambda facts: facts["segments"][0].update(bytes=2.5),
        lambda facts: facts.update(segments=3),
    ],
)
def test_a_manifest_that_says_what_cannot_be_is_refused(tmp_path, monkeypatch, change):
    monkeypatch.setattr(replaylog, "_SEGMENT_BYTES", SMALL_SEGMENT)
    assert [len(rows) for rows in opened(tmp_path / "whole", lambda facts: None)] == [3, 3]
    with pytest.raises((RunRefused, ValueError, TypeError)):
        opened(tmp_path / "changed", change)


def test_damage_is_told_of_the_opening_that_saw_it(tmp_path):
    streams = Streams(tmp_path / "replay", 2, 50)
    streams.step([STEP, STEP])
    streams.save(trim=False)
    facts, state, _ = streams.kept[-1]
    file = tmp_path / "replay" / "00000000.rows"
    whole = file.read_bytes()
    file.write_bytes(whole[:50] + b"?" + whole[51:])
    log, first = streams.new()[1], slots_needed(streams.config, state)
    for _ in range(2):
        log.open(facts, first)
        assert len(log.damage) == 1
    log.cut()
    assert file.read_bytes() == whole
    log.open(facts, first)
    assert log.damage == []


def test_a_segment_that_says_it_holds_more_than_the_memory_is_refused(tmp_path):
    streams = Streams(tmp_path / "replay", 1, 50)
    for _ in range(20):
        streams.step([STEP])
    streams.save(trim=False)
    facts, state, _ = streams.kept[-1]
    with pytest.raises(RunRefused, match="half a block at byte 0"):
        ReplayLog(tmp_path / "replay", streams.replay.slot, 1, 19).open(facts, slots_needed(streams.config, state))
