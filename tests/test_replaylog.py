"""The replay memory on disk against plain lists: whatever was written, saved, trimmed, reopened and cut."""

import copy
import hashlib
import tempfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t3d.config import Config
from t3d.errors import RunRefused
from t3d.replay import NOTHING, STEP, TERMINATED, TRUNCATED, Replay
from t3d.runs import replay_log
from t3d.runs.replay_log import ReplayLog
from t3d.spaces import Spaces
from t3d.training.trainer import slots_needed

OBS, ACTION = 2, 1
RUN = "5a" * 32
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
        replay = Replay(self.config.buffer_size, self.n_envs, Spaces.of_vectors(OBS, ACTION))
        return replay, ReplayLog(self.folder, RUN, replay.slot, self.n_envs, self.ring)

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
        trainer = SimpleNamespace(written=list(self.replay.written), envs=SimpleNamespace(length=list(self.lengths)))
        self.kept = [*self.kept[-1:], (self.log.state, trainer, copy.deepcopy(vars(whole)))]
        if trim:
            needs = [slots_needed(self.config, trainer) for _, trainer, _ in self.kept]
            self.log.trim([min(positions) for positions in zip(*needs, strict=True)])

    def reopen(self, which):
        """Go back to a kept manifest, as a resumed run does, and compare everything with what it was then."""
        if not self.kept:
            return
        which %= len(self.kept)
        state, trainer, was = self.kept[which]
        first = slots_needed(self.config, trainer)
        before, self.log = self.new()
        rows = self.log.open(state, first)
        gaps = [check_rows(found, was["on_disk"][i], first[i], trainer.written[i] - 1) for i, found in enumerate(rows)]
        assert bool(self.log.lost) == any(gaps)
        before.restore(trainer.written, rows, was["obs"])
        check_same_memory(before, was["replay"], self.ring)
        self.log.cut()
        assert self.log.state == state
        self.kept = self.kept[: which + 1]
        vars(self).update(copy.deepcopy(was) | {"replay": before})


def check_rows(found, on_disk, first, stop):
    """Every slot is what it was, or empty where it, or the one behind it, is not on disk. Return how many are not."""
    assert len(found) <= stop - first
    for position, row in enumerate(found, stop - len(found)):
        obs0, obs1, action, reward, ended = on_disk.get(position, (0, 0, 0, 0, NOTHING))
        assert tuple(row["obs"]) == (obs0, obs1)
        whole = position + 1 == stop or position + 1 in on_disk
        assert row["ended"] == (ended if whole else NOTHING)
        if ended != NOTHING:
            assert (row["action"][0], row["reward"]) == (action, reward)
    return len(set(range(stop - len(found), stop)) - set(on_disk))


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
        for part, expected in zip(memory.sample(index, 0.99), was.sample(index, 0.99), strict=True):
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
            patch.setattr(replay_log, "_SEGMENT_BYTES", SMALL_SEGMENT)
            patch.setattr("t3d.storage.disk.flush", lambda path: None)
            play(Path(folder) / "replay", n_envs, ring, actions)

    check()


def test_the_log_gives_back_what_plain_lists_hold():
    many_examples(150)


@pytest.mark.slow
def test_the_log_gives_back_what_plain_lists_hold_in_many_more_cases():
    many_examples(5_000)


def test_a_ring_gone_round_many_times_leaves_few_segments_and_reopens_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(replay_log, "_SEGMENT_BYTES", SMALL_SEGMENT)
    steps = ("steps", [(STEP, STEP, STEP), (STEP, TERMINATED, STEP), (TRUNCATED, STEP, TERMINATED)])
    streams = play(tmp_path / "replay", 3, 5, [steps, ("save", True), ("reopen", 1)] * 20)
    assert min(streams.replay.written) > 12 * 5
    assert len(list((tmp_path / "replay").iterdir())) <= 4
    first = min(int(path.stem) for path in (tmp_path / "replay").iterdir())
    assert first > 10


def test_it_opens_while_the_oldest_segment_left_is_still_needed(tmp_path, monkeypatch):
    # As in any long run: a segment holds the blocks of many checkpoints, and the one before it is gone.
    monkeypatch.setattr(replay_log, "_SEGMENT_BYTES", 4 * SMALL_SEGMENT)
    steps = ("steps", [(STEP, STEP, STEP), (STEP, TERMINATED, STEP), (TRUNCATED, STEP, TERMINATED)])
    play(tmp_path / "replay", 3, 5, [steps, ("save", True), ("reopen", 1)] * 20)
    assert min(int(path.stem) for path in (tmp_path / "replay").iterdir()) > 0


def test_what_was_not_saved_in_time_is_a_gap_and_what_follows_it_comes_back(tmp_path):
    long = ("steps", [(STEP, STEP, STEP)] * 23)
    streams = play(tmp_path / "replay", 2, 6, [("steps", [(STEP, STEP, STEP)]), ("save", True), long, ("save", True)])
    assert sorted(streams.on_disk[0]) == [0, *range(19, 24)]


def damaged(content, rng):
    """Return other bytes: some flipped, some gone, some twice, or what is behind them shifted."""
    at, size = int(rng.integers(len(content))), int(rng.integers(1, 200))
    kind = rng.integers(5)
    if kind == 0:
        return content[:at] + bytes([content[at] ^ int(rng.integers(1, 256))]) + content[at + 1 :]
    parts = {1: b"", 2: bytes(size), 3: rng.bytes(size), 4: content[at : at + size] * 2}
    return content[:at] + parts[int(kind)] + content[at + size :]


def many_damaged(tmp_path, monkeypatch, seeds):
    """Save many blocks in many segments, damage one or two, and look for anything that was never stored."""
    monkeypatch.setattr(replay_log, "_SEGMENT_BYTES", 4 * SMALL_SEGMENT)
    steps = [(STEP, STEP), (STEP, TERMINATED), (TRUNCATED, STEP), (STEP, STEP), (STEP, STEP)]
    streams = Streams(tmp_path / "replay", 2, 60)
    for k in range(40):
        streams.step(list(steps[k % 5]))
        if k % 2:
            streams.save(trim=False)
    state, trainer, was = streams.kept[-1]
    first = slots_needed(streams.config, trainer)
    files = {path: path.read_bytes() for path in (tmp_path / "replay").iterdir()}
    assert len(files) > 2
    least = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for path in rng.choice(sorted(files), int(rng.integers(1, 3)), replace=False):
            path.write_bytes(damaged(files[path], rng))
        log = streams.new()[1]
        lost = 0
        for i, found in enumerate(log.open(state, first)):
            there = {p: s for p, s in was["on_disk"][i].items() if is_there(found, p - first[i], s)}
            lost += check_rows(found, there, first[i], trainer.written[i] - 1)
        changed = any(path.read_bytes()[: len(content)] != content for path, content in files.items())
        assert bool(log.lost) == (lost > 0)
        assert changed or not lost
        least.append(lost)
        # What comes next is appended where nothing is damaged, and found again.
        for path, content in files.items():
            path.write_bytes(content)
    return least


def is_there(found, i, slot):
    return i >= 0 and tuple(found[i]["obs"]) == slot[:2]


def test_whatever_happens_to_its_files_no_slot_is_read_that_never_was(tmp_path, monkeypatch):
    lost = many_damaged(tmp_path, monkeypatch, range(300))
    assert 0 < np.median(lost) < 20  # of some 90: what is whole is found behind what is damaged


@pytest.mark.slow
def test_whatever_happens_to_its_files_no_slot_is_read_that_never_was_in_many_more_cases(tmp_path, monkeypatch):
    many_damaged(tmp_path, monkeypatch, range(300, 20_000))


def grown(tmp_path):
    """Save some blocks, and return what was saved."""
    streams = Streams(tmp_path / "replay", 1, 50)
    for _ in range(4):
        streams.step([STEP])
        streams.save(trim=False)
    return streams, *streams.kept[-1][:2]


def test_a_damaged_segment_is_not_appended_to_and_what_follows_is_in_another(tmp_path):
    streams, state, trainer = grown(tmp_path)
    file = tmp_path / "replay" / "00000000.rows"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    before = file.read_bytes()
    for _ in range(2):  # it is damaged for good
        replay, log = streams.new()
        rows = log.open(state, slots_needed(streams.config, trainer))
        assert [int(slot["ended"]) for slot in rows[0]] == [STEP, STEP, NOTHING, NOTHING]
        assert "1 slots of the replay memory are lost" in log.lost
        assert f"{file}: bytes " in log.lost
        log.cut()
        replay.restore(trainer.written, rows, np.float32([[7, 8]]))
        replay.add(np.float32([[9]]), np.float32([1]), np.array([False]), np.array([False]), np.float32([[1, 2]]))
        log.append(replay)
        assert file.read_bytes() == before
        assert sorted(path.name for path in file.parent.iterdir()) == ["00000000.rows", "00000004.rows"]
    again = streams.new()[1]
    (rows,) = again.open(log.state, [0])
    assert [int(slot["ended"]) for slot in rows] == [STEP, STEP, NOTHING, NOTHING, STEP]


@pytest.mark.parametrize("sum_is", ["another", "its own"])
def test_a_segment_of_another_run_is_refused(tmp_path, sum_is):
    streams, state, trainer = grown(tmp_path / "one")
    other, *_ = grown(tmp_path / "two")
    file = tmp_path / "one" / "replay" / "00000000.rows"
    if sum_is == "another":  # of the same id, and whole
        other.clock += 1_000
        other.step([STEP])
        other.log = ReplayLog(tmp_path / "three", RUN, other.replay.slot, 1, 50)
        other.log.append(other.replay)
        content = (tmp_path / "three" / "00000000.rows").read_bytes()
        state = msgspec.structs.replace(
            state, segments=[msgspec.structs.replace(state.segments[0], bytes=len(content))]
        )
    else:
        content = file.read_bytes().replace(bytes.fromhex(RUN), bytes.fromhex("77" * 32))
        content = content[:56] + zlib.crc32(content[:56]).to_bytes(8, "little") + content[64:]
        sum_of = hashlib.sha256(content).hexdigest()
        state = msgspec.structs.replace(state, segments=[msgspec.structs.replace(state.segments[0], sha256=sum_of)])
    file.write_bytes(content)
    with pytest.raises(RunRefused, match="another run's"):
        streams.new()[1].open(state, slots_needed(streams.config, trainer))


def test_more_than_can_be_is_not_made_room_for(tmp_path):
    streams, state, _ = grown(tmp_path)
    far = [msgspec.structs.replace(state.segments[0], ends=[2**50])]
    (rows,) = streams.new()[1].open(msgspec.structs.replace(state, segments=far), [0])
    assert len(rows) < 100
