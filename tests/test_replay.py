"""Steps 1 and 4: the replay memory against a plain Python list of everything that happened."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t3d.env_spec import View
from t3d.errors import ConfigRefused
from t3d.replay import Replay
from t3d.spaces import ObsPart, Spaces

OBS_SIZE, ACTION_SIZE = 3, 2
GOES_ON, TERMINATES, IS_TRUNCATED, BOTH = range(4)


class PlainList:
    """What the memory must hold, as the world was seen: one list of slots for each stream, none forgotten.

    A slot is a transition (obs, next_obs, action, reward, terminated), or None: an episode's final observation,
    or the one whose action is still to come. Of each stream's list the newest `length` slots are held.
    """

    def __init__(self, n_envs, length):
        self.length = length
        self.slots = [[] for _ in range(n_envs)]

    def transitions(self):
        return [slot for slots in self.slots for slot in slots[-self.length :] if slot is not None]


class World:
    """Feed the memory and the list the same: every number that appears is a new one, so no mix-up can hide."""

    def __init__(self, capacity, n_envs):
        self.replay = Replay(capacity, n_envs, Spaces.of_vectors(OBS_SIZE, ACTION_SIZE))
        self.plain = PlainList(n_envs, capacity // n_envs)
        self.n_envs, self.counter = n_envs, 0
        self.obs = self.new(n_envs, OBS_SIZE)
        self.begin(np.ones(n_envs, bool))

    def new(self, *shape):
        first, self.counter = self.counter + 1, self.counter + int(np.prod(shape))
        return np.arange(first, self.counter + 1, dtype=np.float32).reshape(shape)

    def begin(self, began):
        self.replay.begin(self.obs, began)
        for i in np.flatnonzero(began):
            self.plain.slots[i].append(None)

    def step(self, ends):
        """Step every stream; ends (N,) says how."""
        ends = np.array(ends)
        action, reward = self.new(self.n_envs, ACTION_SIZE), self.new(self.n_envs)
        next_obs = self.new(self.n_envs, OBS_SIZE)
        terminated, truncated = (ends == TERMINATES) | (ends == BOTH), (ends == IS_TRUNCATED) | (ends == BOTH)
        self.replay.add(action, reward, terminated, truncated, next_obs)
        for i, slots in enumerate(self.plain.slots):
            slots[-1] = transition(self.obs[i], next_obs[i], action[i], reward[i], terminated[i])
            slots.append(None)
        ended = ends != GOES_ON
        self.obs = np.where(ended[:, None], self.new(self.n_envs, OBS_SIZE), next_obs)
        if ended.any():
            self.begin(ended)


def transition(obs, next_obs, action, reward, terminated):
    return (*obs.tolist(), *next_obs.tolist(), *action.tolist(), float(reward), float(terminated))


def drawn(replay, size, seed=0):
    """Draw and sample, as a list of transitions."""
    batch = replay.sample(replay.draw(np.random.default_rng(seed), size), 0.99)
    assert (batch.discount == np.float32(0.99)).all()
    return [transition(*row) for row in zip(*batch[:5], strict=True)]


@st.composite
def worlds(draw):
    n_envs = draw(st.integers(1, 3))
    world = World(draw(st.integers(3 * n_envs, 12 * n_envs)), n_envs)
    end = st.sampled_from([GOES_ON, GOES_ON, GOES_ON, TERMINATES, IS_TRUNCATED, BOTH])
    for ends in draw(st.lists(st.tuples(*[end] * n_envs), min_size=1, max_size=50)):
        world.step(ends)
    return world


@settings(deadline=None, max_examples=300)
@given(worlds())
def test_exactly_the_transitions_still_held_are_drawn(world):
    held = world.plain.transitions()
    assert len(world.replay) == len(held)
    # 40 draws for each slot: that a transition which can be drawn is missed has a chance below 1e-15.
    seen = drawn(world.replay, 40 * 36)
    assert set(seen) == set(held)


@settings(deadline=None, max_examples=100)
@given(worlds(), st.lists(st.sampled_from([GOES_ON, TERMINATES, IS_TRUNCATED]), min_size=1, max_size=20))
def test_it_is_right_after_every_single_step(world, ends):
    for end in ends:
        world.step([end] * world.n_envs)
        assert len(world.replay) == len(world.plain.transitions())
        assert set(drawn(world.replay, 60)) <= set(world.plain.transitions())


@pytest.mark.parametrize(("end", "terminated"), [(GOES_ON, 0.0), (TERMINATES, 1.0), (IS_TRUNCATED, 0.0), (BOTH, 1.0)])
def test_only_a_true_end_is_terminated_and_it_wins_over_the_time_limit(end, terminated):
    world = World(20, 1)
    world.step([end])
    batch = world.replay.sample(np.array([0]), 0.99)
    assert batch.terminated.tolist() == [terminated]
    assert batch.obs.tolist() == [[1, 2, 3]]
    assert batch.next_obs.tolist() == [[7, 8, 9]]  # the true one, not the next episode's first


def test_an_episode_by_hand():
    replay = Replay(4, 1, Spaces.of_vectors(1, 1))
    go_on, end = np.array([False]), np.array([True])
    replay.begin(np.array([[10.0]], np.float32), end)
    for action, terminated, next_obs in ((1, go_on, 11), (2, end, 12)):
        replay.add(
            np.array([[action]], np.float32),
            np.array([action / 2], np.float32),
            terminated,
            go_on,
            np.array([[next_obs]], np.float32),
        )
    # Slots: 10, 11, 12 (final), and one never written.
    assert len(replay) == 2
    assert set(replay.draw(np.random.default_rng(0), 100).tolist()) == {0, 1}
    batch = replay.sample(np.array([1, 0]), 0.99)
    assert [part.tolist() for part in batch[:5]] == [[[11], [10]], [[12], [11]], [[2], [1]], [1.0, 0.5], [1.0, 0.0]]
    # The next episode opens slot 3, then slot 0: the oldest transition is gone.
    replay.begin(np.array([[20.0]], np.float32), end)
    assert len(replay) == 2
    replay.add(np.array([[3]], np.float32), np.array([1.5], np.float32), go_on, go_on, np.array([[21]], np.float32))
    assert set(replay.draw(np.random.default_rng(0), 100).tolist()) == {1, 3}
    assert replay.sample(np.array([3]), 0.99).next_obs.tolist() == [[21]]


def uneven_world():
    """Three streams: one episode without an end, one that ends at every step (half its slots are final), a mixture."""
    world = World(90, 3)
    for step in range(19):
        world.step([GOES_ON, TERMINATES, IS_TRUNCATED if step % 5 == 4 else GOES_ON])
    return world


@pytest.mark.parametrize("steps_more", [0, 40])
def test_every_transition_is_equally_likely(steps_more):
    world = uneven_world()
    for _ in range(steps_more):  # the rings wrap
        world.step([GOES_ON, TERMINATES, GOES_ON])
    held = world.plain.transitions()
    per_stream = [sum(slot is not None for slot in slots[-30:]) for slots in world.plain.slots]
    assert per_stream[1] < min(per_stream[0], per_stream[2])
    draws = 400 * len(held)
    counts = dict.fromkeys(held, 0)
    for seen in drawn(world.replay, draws):
        counts[seen] += 1
    chi_square = sum((count - 400) ** 2 / 400 for count in counts.values())
    # Chi-square with k - 1 degrees of freedom has mean k - 1 and standard deviation sqrt(2 (k - 1)).
    assert abs(chi_square - (len(held) - 1)) < 4 * np.sqrt(2 * (len(held) - 1))


def test_two_draws_differ_and_one_stream_repeats():
    replay = uneven_world().replay
    rng = np.random.default_rng(5)
    first, second = replay.draw(rng, 50), replay.draw(rng, 50)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, replay.draw(np.random.default_rng(5), 50))


def test_rows_of_a_batch_are_whole_and_belong_to_nobody_else():
    world = uneven_world()
    index = world.replay.draw(np.random.default_rng(0), 7)
    batch = world.replay.sample(index, 0.99)
    assert [part.shape for part in batch] == [(7, OBS_SIZE), (7, OBS_SIZE), (7, ACTION_SIZE), (7,), (7,), (7,)]
    assert {part.dtype for part in batch} == {np.dtype(np.float32)}
    kept = [part.copy() for part in batch]
    for part in batch:
        part[:] = -1
    for part, before in zip(world.replay.sample(index, 0.99), kept, strict=True):
        assert np.array_equal(part, before)


def test_the_fast_gather_is_the_plain_one():
    """Slot i, and the observation of slot i + 1, as NumPy would gather them field by field."""
    replay = uneven_world().replay
    index = replay.draw(np.random.default_rng(0), 500)
    slots, next_obs = replay._gather(index)
    assert slots.tobytes() == replay._slots[index].tobytes()
    assert next_obs.tobytes() == replay._slots["obs"][index + 1].tobytes()


def test_what_was_handed_over_may_change_afterwards():
    replay = Replay(10, 1, Spaces.of_vectors(1, 1))
    obs, action, reward, next_obs = (np.full(shape, 7, np.float32) for shape in ((1, 1), (1, 1), (1,), (1, 1)))
    no = np.array([False])
    replay.begin(obs, ~no)
    replay.add(action, reward, no, no, next_obs)
    for array in (obs, action, reward, next_obs):
        array[:] = -1
    assert [part.tolist() for part in replay.sample(np.array([0]), 0.5)] == [[[7]], [[7]], [[7]], [7], [0], [0.5]]


def test_half_cheetahs_memory_is_a_third_of_stable_baselines_3s():
    stable_baselines_3 = 17 * 8 * 2 + 6 * 4 + 4 + 4 + 4  # obs and next obs in float64, action, reward, done, timeout
    assert stable_baselines_3 == 308
    replay = Replay(1000, 1, Spaces.of_vectors(17, 6))
    # 17 + 6 + 1 numbers and how the step ended, 4 bytes each; a ring may hold one slot beyond what it was asked for.
    assert 100 * 1000 <= replay.full_bytes <= 100 * 1001
    assert replay.full_bytes <= 0.4 * stable_baselines_3 * 1000


@pytest.mark.parametrize("n_envs", [1, 3])
def test_an_observation_is_stored_once(n_envs):
    small, larger = Replay(300, n_envs, Spaces.of_vectors(5, 2)), Replay(300, n_envs, Spaces.of_vectors(6, 2))
    assert 300 * 4 <= larger.full_bytes - small.full_bytes <= (300 + n_envs) * 4


def test_full_bytes_is_what_the_machine_gives_it():
    tracemalloc.start()
    replay = Replay(100_000, 3, Spaces.of_vectors(17, 6))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert replay.full_bytes == pytest.approx(100_000 * 100, rel=0.001)
    assert taken == pytest.approx(replay.full_bytes, rel=0.001)


@pytest.mark.parametrize(("capacity", "n_envs"), [(0, 1), (2, 1), (5, 2), (8, 3)])
def test_a_memory_without_room_for_one_transition_is_refused(capacity, n_envs):
    with pytest.raises(ConfigRefused, match=r"got: .*\n.*expected: ") as refused:
        Replay(capacity, n_envs, Spaces.of_vectors(1, 1))
    assert f"{3 * n_envs} slots" in str(refused.value)


def test_an_empty_memory_gives_nothing():
    world = World(9, 3)
    assert len(world.replay) == 0
    with pytest.raises(AssertionError, match="empty"):
        world.replay.draw(np.random.default_rng(0), 1)


def test_by_priority_no_transition_is_drawn_of_which_a_frame_was_overwritten():
    spaces = Spaces((ObsPart(shape=(4, 4, 1), dtype="uint8"),), (1,), (-1.0,), (1.0,), View(frame_size=4))
    memory, rng = Replay(12, 1, spaces, prioritized=True), np.random.default_rng(0)
    no, yes = np.zeros(1, bool), np.ones(1, bool)
    memory.begin(np.zeros((1, 16), np.uint8), yes)
    for step in range(1, 40):
        ended = np.array([step % 7 == 0])
        frame = np.full((1, 16), step, np.uint8)
        memory.add(np.zeros((1, 1), np.float32), np.zeros(1, np.float32), no, ended, frame)
        if ended[0]:
            memory.begin(frame, yes)
        assert np.count_nonzero(memory._is_there(memory.draw(rng, 64))) == 64
