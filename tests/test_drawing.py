"""`Fused.update_many` draws, gathers, normalises and learns in one compiled call, to the bit as the plain path does."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import small_runs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t3d.config import TD3Config
from t3d.engines import blas_and_threads
from t3d.engines.fused import Fused
from t3d.policy.normalizer import Normalizer
from t3d.replay import Replay
from t3d.spaces import Spaces
from t3d.td3 import TD3
from t3d.training.learner import Learner
from t3d.training.randomness import Streams

SPACES = Spaces.of_vectors(5, 2)


def memory(n_envs=1, capacity=60, steps=200, every=7, kind=Replay, spaces=SPACES):
    """Return a memory, full several times over, in which every few slots no transition begins; and its observations."""
    rng, replay, all_obs = np.random.default_rng(3), kind(capacity, n_envs, spaces), []

    def observe():
        all_obs.append((1e3 + 50 * rng.standard_normal((n_envs, spaces.obs_size))).astype(spaces.obs_dtype))
        return all_obs[-1]

    replay.begin(observe(), np.ones(n_envs, bool))
    for step in range(1, steps + 1):
        ended = (step + np.arange(n_envs)) % every == 0
        truly = ended & (rng.random(n_envs) < 0.5)
        action = rng.uniform(-1, 1, (n_envs, spaces.action_size)).astype(np.float32)
        replay.add(action, rng.standard_normal(n_envs).astype(np.float32), truly, ended & ~truly, observe())
        replay.begin(observe(), ended)
    return replay, np.concatenate(all_obs)


def learner(replay, obs, normalize=False, layer_norm="none", threads=1, weights=torch.float32, batch=33):
    config = small_runs.choice(engine="fused", threads=threads, batch_size=batch).config
    config = dataclasses.replace(config, td3=TD3Config(hidden=(16, 12), layer_norm=layer_norm))
    normalizer = Normalizer(5) if normalize else None
    if normalizer is not None:
        normalizer.observe(obs)
    made = Learner(SPACES, config, replay, normalizer, Streams.from_seed(4))
    for network in made.agent.networks().values():
        network.to(weights)
    assert made.drawing is made.engine
    return made


def everything(made):
    """Return weights, moments, losses and streams, bit by bit."""
    tensors = {name: tensor.numpy().tobytes() for name, tensor in made.state().items()}
    return tensors, made.agent.updates, made._streams.state


CASES = {
    "one ring that has gone round": {},
    "three rings": {"n_envs": 3},
    "a memory that is nearly empty": {"steps": 2},
    "a single transition": {"steps": 1, "capacity": 3},
    "every other slot drawn again": {"every": 1},
    "normalised": {"normalize": True, "n_envs": 2},
    "layer norm": {"layer_norm": "both", "normalize": True},
    "two threads": {"threads": 2, "n_envs": 3, "normalize": True, "batch": 64},
    "two threads, layer norm": {"threads": 2, "layer_norm": "critic", "every": 2},
    "three threads": {"threads": 3},
    "float64": {"weights": torch.float64, "normalize": True},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_drawing_in_the_compiled_call_gives_the_bits_of_the_plain_path(case):
    filling = {name: case[name] for name in ("n_envs", "steps", "every", "capacity") if name in case}
    rest = {name: value for name, value in case.items() if name not in filling}
    plain, quick = (learner(*memory(**filling), **rest) for _ in range(2))
    plain.drawing = None
    for count in (1, 4, 7):
        plain.update(count)
        quick.update(count)
    assert everything(quick) == everything(plain)
    assert quick.agent.updates == 12
    assert quick.losses() == plain.losses()
    # The memory is another piece of the machine's after a restore, and a step later it holds more.
    for made in (plain, quick):
        replay = made.replay
        rows = [replay.rows(env, replay.oldest(env), written - 1) for env, written in enumerate(replay.written)]
        replay.restore(replay.written, rows, np.full((len(rows), 5), 7, np.float32))
        no, one = np.zeros(len(rows), bool), np.ones(len(rows), np.float32)
        replay.add(np.ones((len(rows), 2), np.float32), one, no, no, np.full((len(rows), 5), 9, np.float32))
        made.update(3)
    assert everything(quick) == everything(plain)


ENGINE = Fused(TD3(SPACES, TD3Config(hidden=(2,)), np.random.default_rng(0)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 4), st.integers(3, 300), st.integers(1, 700), st.integers(1, 9), st.integers(1, 80), st.integers(0)
)
def test_slots_and_noise_are_those_that_numpy_draws(n_envs, length, steps, every, batch, seed):
    replay, _ = memory(n_envs, n_envs * length, steps, every)
    streams = [np.random.default_rng(seed + i % 2) for i in range(4)]  # index and noise, of each way
    for stream in streams:
        stream.integers(5, size=seed % 3)  # half a draw of the generator may be left over
    ENGINE.update_many(replay, None, *streams[:2], batch, 1)
    assert ENGINE._given.picked.tolist() == replay.draw(streams[2], batch).tolist()
    assert ENGINE._given.noise.tolist() == streams[3].standard_normal(batch * 2, np.float32).tolist()
    assert [str(s.bit_generator.state) for s in streams[:2]] == [str(s.bit_generator.state) for s in streams[2:]]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("field", ["obs", "action", "reward"])
def test_what_is_not_a_number_reaches_the_losses(field, normalize):
    replay, obs = memory()
    slot = np.flatnonzero(replay._ended)[0]
    replay._slots[field][slot] = np.nan
    made = learner(replay, obs, normalize, batch=512)
    made.update(2)
    assert not np.isfinite([info.critic_loss for info in made._seen]).any()
    replay._slots[field][slot] = 1
    made.update()
    assert not np.isfinite(made._seen[-1].critic_loss)


class Other(Replay):
    """May draw in another way."""


class OtherScale(Normalizer):
    """May normalise in another way."""


@pytest.mark.parametrize("kind", [Other, partial(Replay, prioritized=True)])
def test_a_memory_that_may_draw_otherwise_takes_the_plain_path(kind):
    replay, _ = memory(kind=kind)
    made = Learner(SPACES, small_runs.choice(engine="fused").config, replay, None, Streams.from_seed(4))
    assert made.drawing is None
    made.update(3)
    assert made.agent.updates == 3


def test_what_cannot_be_drawn_takes_the_plain_path(monkeypatch):
    def drawing(replay, normalizer=None, engine="fused"):
        spaces, config = dataclasses.replace(SPACES, obs=(part,)), small_runs.choice(engine=engine).config
        return Learner(spaces, config, replay, normalizer, Streams.from_seed(4)).drawing

    part = SPACES.obs[0]
    replay, _ = memory()
    assert drawing(replay) is not None
    assert drawing(replay, Normalizer(5)) is not None
    assert drawing(replay, OtherScale(5)) is None
    assert drawing(replay, engine="eager") is None
    assert drawing(memory(kind=partial(Replay, prioritized=True))[0]) is None
    monkeypatch.setattr(blas_and_threads, "can_draw", False)  # as on Windows
    assert drawing(memory()[0]) is None


def test_adams_counter_stays_where_that_of_pytorch_does():
    made = learner(*memory())
    made.engine._numbers.steps[:] = 2**24 - 1
    made.update(6)
    eager = torch.tensor(2.0**24 - 1)
    for _ in range(3):
        eager += 1
    assert set(made.engine._numbers.steps.tolist()) == {eager.item()}


def test_an_empty_memory_is_not_drawn_from():
    made = learner(*memory(steps=0))
    with pytest.raises(AssertionError, match="empty"):
        made.update()


def test_updates_are_made_in_parts_and_these_change_no_bit(monkeypatch):
    whole, parts = (learner(*memory()) for _ in range(2))
    parts.part, counts, many = 3, [], parts.drawing.update_many
    monkeypatch.setattr(parts.drawing, "update_many", lambda *given: counts.append(given[-1]) or many(*given))
    whole.update(10)
    parts.update(10)
    parts.update(0)
    assert counts == [3, 3, 3, 1]
    assert everything(parts) == everything(whole)


@pytest.mark.parametrize(
    ("hidden", "batch", "part"), [((256, 256), 256, 4), ((64, 64), 100, 64), ((1024, 1024, 1024), 1024, 1)]
)
def test_a_part_follows_from_the_sizes(hidden, batch, part):
    config = small_runs.choice(hidden=hidden, batch_size=batch).config
    spaces = Spaces.of_vectors(17, 6)
    made = Learner(spaces, config, Replay(9, 1, spaces), None, Streams.from_seed(0))
    assert made.part == part
