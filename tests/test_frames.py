"""Frames: what becomes of an image, and that what a batch shows are the frames that came in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t3d import frames
from t3d.env_spec import View
from t3d.errors import ConfigRefused
from t3d.replay import Replay
from t3d.spaces import ObsPart, Spaces
from t3d.training.randomness import Streams

SIDE = 16
GOES_ON, TERMINATES, IS_TRUNCATED = range(3)


def spaces(stack=3, vectors=2, color="grey", side=SIDE):
    image = ObsPart(name="obs/camera", shape=(side, side, 3 if color == "rgb" else 1), dtype="uint8")
    parts = (image, ObsPart(name="obs/joints", shape=(vectors,))) if vectors else (image,)
    return Spaces(parts, (1,), (-1.0,), (1.0,), View(side, color, stack))


# ---- A picture made small


def test_a_pixel_is_the_mean_of_the_area_that_it_covers():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 32, 1), dtype=np.uint8)
    means = image[:, :, 0].reshape(16, 4, 16, 2).mean(axis=(1, 3))
    made = frames.small(image, 16, "grey")
    assert made.shape == (1, 16, 16)
    assert np.abs(made[0] - means).max() <= 1  # rounded once a direction


def test_channels_may_come_first_or_last_and_grey_weighs_them_as_eyes_do():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    rgb = frames.small(image, 20, "rgb")
    assert np.array_equal(rgb, np.moveaxis(image, 2, 0))
    assert np.array_equal(frames.small(rgb, 20, "rgb"), rgb)
    grey = frames.small(image, 20, "grey")[0]
    assert np.abs(grey - image @ np.array([0.299, 0.587, 0.114])).max() <= 1


def test_a_grey_picture_stays_one_channel_whatever_is_asked_for():
    grey = np.full((16, 16, 1), 7, np.uint8)
    assert np.array_equal(frames.small(grey, 16, "rgb"), frames.small(grey, 16, "grey"))
    seen = Spaces((ObsPart(shape=(16, 16, 1), dtype="uint8"),), (1,), (-1.0,), (1.0,), View(16, "rgb", 2))
    assert seen.frame_shape == (1, 16, 16)


# ---- Shifted


def test_a_shift_moves_every_channel_of_a_row_alike_and_repeats_the_edge():
    picture = np.arange(2 * 5 * 5, dtype=np.uint8).reshape(1, 2, 5, 5)
    both = np.concatenate([picture, picture])
    moved = frames.shifted(both, np.array([[1, -2], [0, 0]]), most=2)
    assert np.array_equal(moved[1], picture[0])
    for row in range(5):
        for column in range(5):
            from_row, from_column = max(row - 1, 0), min(column + 2, 4)
            assert (moved[0, :, row, column] == picture[0, :, from_row, from_column]).all()


def test_shifts_reach_the_published_distance_for_s_and_for_s_alone():
    drawn = frames.shifts(spaces(side=84), np.random.default_rng(0), 2_000)
    assert drawn.shape == (2, 2_000, 2)
    assert (drawn.min(), drawn.max()) == (-4, 4)
    assert np.abs(np.corrcoef(drawn[0, :, 0], drawn[1, :, 0])[0, 1]) < 0.1
    assert frames.most_shift(spaces(side=64)) == 3


def test_shifts_are_drawn_from_a_stream_of_their_own():
    before, after = Streams.from_seed(3), Streams.from_seed(3)
    frames.shifts(spaces(), after.shifts, 10)
    names = [name for name in before.state if before.state[name] != after.state[name]]
    assert names == ["shifts"]


# ---- Stacks of N streams


def test_a_stack_begins_with_its_first_frame_repeated_and_then_keeps_the_newest():
    sees = spaces(stack=3, vectors=0)
    stacks, rows = frames.Stacks(sees, 2), [np.full((2, SIDE * SIDE), k, np.uint8) for k in range(6)]
    stacks.begin(rows[0], np.ones(2, bool))
    stacks.push(rows[1])
    stacks.begin(rows[2], np.array([False, True]))  # the second stream's episode was over
    stacks.push(rows[3])
    seen = stacks.seen(rows[3]).reshape(2, 3, -1)[:, :, 0]
    assert seen.tolist() == [[0, 1, 3], [2, 2, 3]]


def test_what_was_seen_in_an_episode_is_what_its_stacks_showed():
    sees, rng = spaces(), np.random.default_rng(0)
    rows = rng.integers(0, 256, (9, sees.obs_size), dtype=np.uint8)
    rows[:, sees.frame_size :] = rng.standard_normal((9, 2)).astype(np.float32).view(np.uint8)
    stacks = frames.Stacks(sees, 1)
    shown = []
    for k in range(9):
        stacks.begin(rows[:1], np.ones(1, bool)) if k == 0 else stacks.push(rows[k : k + 1])
        shown.append(stacks.seen(rows[k : k + 1])[0])
        again = frames.Stacks(sees, 1)
        again.restore(rows[k : k + 1], [rows[:k]])
        assert np.array_equal(again.seen(rows[k : k + 1])[0], shown[-1])
    assert np.array_equal(frames.seen_in_episode(sees, rows), shown)


# ---- The replay memory, against what came in


class World:
    """Feed a memory; keep every frame of every episode, and of each stream the slots that it must have taken."""

    def __init__(self, sees, n_envs, length):
        self.sees, self.length = sees, length
        self.replay = Replay(n_envs * length, n_envs, sees)
        self.slots = [[] for _ in range(n_envs)]  # (frames of the episode so far, whether a transition begins here)
        self.count = 0
        self.begin(np.ones(n_envs, bool))

    def observe(self):
        self.count += 1
        frame = np.full(self.sees.frame_size, self.count % 251, np.uint8)
        frame[:4] = np.frombuffer(np.int32(self.count).tobytes(), np.uint8)
        return np.concatenate([frame, np.float32([self.count, -self.count]).view(np.uint8)])

    def begin(self, began):
        obs = np.stack([self.observe() for _ in self.slots])
        self.replay.begin(obs, began)
        for i in np.flatnonzero(began):
            self.slots[i].append([[obs[i]], False])

    def step(self, ends):
        ends, n = np.array(ends), len(self.slots)
        obs = np.stack([self.observe() for _ in range(n)])
        reward = np.arange(n, dtype=np.float32)
        self.replay.add(np.zeros((n, 1), np.float32), reward, ends == TERMINATES, ends == IS_TRUNCATED, obs)
        for i, slots in enumerate(self.slots):
            slots[-1][1] = True
            slots.append([[*slots[-1][0], obs[i]], False])
        if (ends != GOES_ON).any():
            self.begin(ends != GOES_ON)

    def transitions(self):
        """Return, of each transition that can be drawn, what its batch must show."""
        stack = self.sees.view.frame_stack
        found = set()
        for slots in self.slots:
            for at in range(max(0, len(slots) - self.length), len(slots) - 1):
                seen, begins = slots[at]
                reach = min(stack - 1, len(seen) - 1)
                if begins and at - reach >= len(slots) - self.length:
                    found.add((row_of(seen, stack), row_of(slots[at + 1][0], stack)))
        return found


def row_of(seen, stack):
    """Return the numbers of the last frames, the first of the episode for those before it."""
    last = [seen[max(0, len(seen) - stack + k)] for k in range(stack)]
    return tuple(int(np.frombuffer(frame[:4].tobytes(), np.int32)[0]) for frame in last)


def numbers_in(row, sees):
    """Return the numbers of the frames that a row shows, each frame and the vectors looked at whole."""
    pixels = row[: -sees.vector_size].reshape(sees.view.frame_stack, -1).astype(np.uint8)
    numbers = tuple(int(np.frombuffer(frame[:4].tobytes(), np.int32)[0]) for frame in pixels)
    assert all((frame[4:] == number % 251).all() for frame, number in zip(pixels, numbers, strict=True))
    assert row[-2:].tolist() == [numbers[-1], -numbers[-1]]
    return numbers


def shown(world):
    """Return the transitions that a batch of every slot ever drawn shows."""
    rng = np.random.default_rng(0)
    drawn = np.unique(np.concatenate([world.replay.draw(rng, 400), world.replay.draw(rng, 400)]))
    batch = world.replay.sample(drawn, 0.99)
    pairs = zip(batch.obs, batch.next_obs, strict=True)
    return {(numbers_in(s, world.sees), numbers_in(next_s, world.sees)) for s, next_s in pairs}


@settings(max_examples=25, deadline=None)
@given(
    stack=st.integers(1, 4),
    n_envs=st.integers(1, 2),
    room=st.integers(0, 9),
    ends=st.lists(st.sampled_from([GOES_ON, GOES_ON, GOES_ON, TERMINATES, IS_TRUNCATED]), min_size=1, max_size=40),
)
def test_a_batch_shows_the_frames_that_came_in_and_no_others(stack, n_envs, room, ends):
    world = World(spaces(stack), n_envs, stack + 2 + room)
    for k in range(0, len(ends), n_envs):
        world.step((ends[k:] + [GOES_ON] * n_envs)[:n_envs])
    assert shown(world) == world.transitions()
    rows = [world.replay.rows(i, world.replay.oldest(i), written - 1) for i, written in enumerate(world.replay.written)]
    again = Replay(n_envs * world.length, n_envs, world.sees)
    opened = np.stack([slots[-1][0][-1] for slots in world.slots])
    again.restore(list(world.replay.written), rows, opened)
    world.replay = again
    world.step([GOES_ON] * n_envs)
    assert shown(world) == world.transitions()


def test_a_memory_that_could_never_show_a_whole_stack_is_refused():
    Replay(5, 1, spaces(stack=3))
    with pytest.raises(ConfigRefused, match="5 slots or more"):
        Replay(4, 1, spaces(stack=3))


def test_each_frame_is_kept_once():
    sees = Spaces((ObsPart(shape=(84, 84, 1), dtype="uint8"),), (1,), (-1.0,), (1.0,), View(84, "grey", 3))
    # Stable-Baselines3 2.9 keeps 42,372 bytes a transition of such frames: each one six times.
    assert Replay(1_000, 1, sees).full_bytes / 1_000 <= 0.17 * 42_372
