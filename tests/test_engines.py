"""The fused engine against the text it speeds up: `td3.py`."""

from __future__ import annotations

import copy
import dataclasses
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t3d.config import Config, TD3Config
from t3d.engines import choose
from t3d.engines.compiled_engine import CompiledEngine
from t3d.engines.fused import Fused
from t3d.errors import ConfigRefused
from t3d.replay import Batch
from t3d.spaces import Spaces
from t3d.td3 import TD3

# Waking PyTorch's second thread for networks this small takes longer than their work.
torch.set_num_threads(1)

SMALL = TD3Config(hidden=(16, 16))


def make_agent(config: TD3Config = SMALL, size: int = 5, actions: int = 2, dtype: Any = torch.float32) -> TD3:
    agent = TD3(Spaces.of_vectors(size, actions), config, np.random.default_rng(7))
    for network in agent.networks().values():
        network.to(dtype)
    return agent


def make_batch(
    seed: int, batch: int = 32, size: int = 5, actions: int = 2, dtype: Any = np.float32
) -> tuple[Batch, Any]:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    terminated = (rng.random(batch) < 0.2).astype(dtype)
    obs, next_obs, reward, noise = draw(batch, size), draw(batch, size), draw(batch), draw(batch, actions)
    # A discount of its own for every row, as where they are several steps long.
    discount = np.linspace(0.5, 1, batch).astype(dtype)
    return Batch(obs, next_obs, np.tanh(draw(batch, actions)), reward, terminated, discount), noise


def numbers(agent: TD3) -> dict[str, Any]:
    """Return everything an update changes, as copies."""
    found = {}
    for name, network in agent.networks().items():
        for key, value in network.state_dict().items():
            found[f"{name}.{key}"] = value.clone().numpy()
    for name, optimizer in (("actor", agent.actor_optimizer), ("critic", agent.critic_optimizer)):
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                found[f"{name}.{index}.{key}"] = value.clone().numpy()
    return found


def assert_close(got: TD3, expected: TD3, tolerance: float, only: str = "") -> None:
    """Compare tensor by tensor, each by its largest number."""
    a, b = numbers(got), numbers(expected)
    assert a.keys() == b.keys()
    assert any(only in key for key in a)
    for key in a:
        if only in key:
            scale = np.abs(b[key]).max(initial=0) + 1e-30
            assert np.abs(a[key] - b[key]).max(initial=0) <= tolerance * scale, key


def assert_shares(engine: Fused) -> None:
    """Assert that what the agent shows is the engine's memory: one block, each tensor on 64 bytes."""
    agent, low = engine.agent, engine._numbers.weights.ctypes.data
    high = low + engine._numbers.weights.nbytes
    tensors = [p for network in agent.networks().values() for p in network.parameters()]
    steps = []
    for optimizer in (agent.actor_optimizer, agent.critic_optimizer):
        for p in optimizer.param_groups[0]["params"]:
            tensors += [p, optimizer.state[p]["exp_avg"], optimizer.state[p]["exp_avg_sq"]]
            steps.append(optimizer.state[p]["step"])
    assert all(low <= t.data_ptr() < high and t.data_ptr() % 64 == 0 for t in tensors)
    assert len({t.data_ptr() for t in tensors}) == sum(p.numel() > 0 for p in tensors) - len(steps)
    low = engine._numbers.steps.ctypes.data
    assert sorted(s.data_ptr() for s in steps) == [low + 4 * i for i in range(len(steps))]


def shapes(narrowest: int) -> Any:
    return st.fixed_dictionaries(
        {
            "hidden": st.lists(st.integers(narrowest, 40), min_size=1, max_size=4).map(tuple),
            "layer_norm": st.sampled_from(["none", "critic", "both"]),
            "batch": st.integers(1, 50),
            "size": st.integers(1, 20),
            "actions": st.integers(1, 7),
            "threads": st.integers(1, 4),
        }
    )


def update_both(shape: dict[str, Any], dtype: Any, updates: int) -> tuple[TD3, TD3]:
    """Return an agent updated by the fused engine and its twin updated by its own method, on equal batches."""
    config = TD3Config(hidden=shape["hidden"], layer_norm=shape["layer_norm"], policy_delay=1)
    sizes = {"size": shape["size"], "actions": shape["actions"]}
    agent, eager = (make_agent(config, **sizes, dtype=dtype) for _ in range(2))
    fused = Fused(agent, shape["threads"])
    for seed in range(updates):
        batch, noise = make_batch(seed, shape["batch"], **sizes, dtype=np.dtype(str(dtype)[6:]))
        seen, expected = fused.update(batch, noise), eager.update(batch, noise)
        for a, b in zip(seen[:5], expected[:5], strict=True):
            assert a == pytest.approx(float(b), rel=1e-4, abs=1e-4)
    return agent, eager


def assert_equal_gradients(got: TD3, expected: TD3, tolerance: float) -> None:
    """Compare Adam's first moments, a tenth of the gradients after one update, by each network's largest."""
    a, b = numbers(got), numbers(expected)
    for name in ("actor", "critic"):
        keys = [key for key in a if key.startswith(f"{name}.") and key.endswith("exp_avg")]
        largest = max(np.abs(b[key]).max() for key in keys)
        worst = max(np.abs(a[key] - b[key]).max() for key in keys)
        assert worst <= tolerance * largest, (name, worst / largest)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shapes(narrowest=1))
def test_gradients_are_those_of_autograd_to_float64(shape: dict[str, Any]) -> None:
    assert_equal_gradients(*update_both(shape, torch.float64, 1), tolerance=1e-10)


# A norm of few numbers that lie close together magnifies float32's rounding, in eager as in fused.
@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(shapes(narrowest=8))
def test_gradients_are_those_of_autograd_to_float32(shape: dict[str, Any]) -> None:
    assert_equal_gradients(*update_both(shape, torch.float32, 1), tolerance=1e-5)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(shapes(narrowest=8))
def test_weights_after_ten_updates(shape: dict[str, Any]) -> None:
    got, expected = update_both(shape, torch.float32, 10)
    for name, network in got.networks().items():
        for a, b in zip(network.parameters(), expected.networks()[name].parameters(), strict=True):
            assert torch.linalg.vector_norm(a - b) <= 1e-4 * torch.linalg.vector_norm(b), name


@pytest.mark.parametrize(("layer_norm", "threads"), [("both", 2), pytest.param("none", 1, marks=pytest.mark.slow)])
def test_float64_stays_with_eager_for_300_updates(layer_norm: Any, threads: int) -> None:
    config = TD3Config(hidden=(16, 12), layer_norm=layer_norm)
    agent, eager = (make_agent(config, dtype=torch.float64) for _ in range(2))
    fused = Fused(agent, threads)
    for seed in range(300):
        batch, noise = make_batch(seed, 17, dtype=np.float64)
        fused.update(batch, noise)
        eager.update(batch, noise)
    assert_close(agent, eager, 1e-9)


@pytest.mark.parametrize(
    "changed",
    [
        {"hidden": (16, 24)},
        {"lr": 1e-3},
        {"tau": 0.5},
        {"policy_noise": 0.9},
        {"noise_clip": 0.01},
        {"policy_delay": 3},
        {"layer_norm": "critic"},
        {"layer_norm": "both"},
    ],
)
def test_every_option_takes_effect_as_in_eager(changed: dict[str, Any]) -> None:
    config = dataclasses.replace(SMALL, **changed)
    agents = make_agent(config, dtype=torch.float64), make_agent(config, dtype=torch.float64)
    plain = make_agent(SMALL, dtype=torch.float64)
    fused, plain_fused = Fused(agents[0]), Fused(plain)
    for seed in range(6):
        batch, noise = make_batch(seed, dtype=np.float64)
        fused.update(batch, noise)
        agents[1].update(batch, noise)
        plain_fused.update(batch, noise)
    assert_close(agents[0], agents[1], 1e-9)
    a, b = numbers(agents[0]), numbers(plain)
    assert a.keys() != b.keys() or any(a[key].shape != b[key].shape or (a[key] != b[key]).any() for key in a)


def test_the_list_of_options_above_is_complete() -> None:
    marks = test_every_option_takes_effect_as_in_eager.pytestmark  # type: ignore[attr-defined]
    tested = {name for change in marks[0].args[1] for name in change}
    # The discount comes with the batch: each of its rows has one of its own here.
    ours = {field.name for field in dataclasses.fields(TD3Config) if field.metadata.get("only", "td3") == "td3"}
    assert tested == ours - {"gamma"}


def test_a_learning_rate_set_on_the_optimiser_takes_effect() -> None:
    agent, eager = make_agent(), make_agent()
    for some in (agent, eager):
        some.critic_optimizer.param_groups[0]["lr"] = 0.05
    engine = Fused(agent)
    for seed in range(2):
        engine.update(*make_batch(seed))
        eager.update(*make_batch(seed))
    assert_close(agent, eager, 1e-3, only="critic.q1_body.0.weight")


def test_act_plays_as_the_agent_does() -> None:
    for layer_norm in ("none", "both"):
        agent = make_agent(TD3Config(hidden=(32, 16), layer_norm=layer_norm))
        expected, engine = copy.deepcopy(agent), Fused(agent)
        for n in (1, 4, 1, 33):
            obs = np.random.default_rng(n).standard_normal((n, 5)).astype(np.float32)
            action = engine.act(obs)
            assert action.shape == (n, 2)
            assert action.dtype == np.float32
            np.testing.assert_allclose(action, expected.act(obs), atol=1e-6)


def test_the_agent_shows_the_engines_memory() -> None:
    agent = make_agent()
    before = numbers(agent)
    engine = Fused(agent)
    assert_shares(engine)
    for key, value in numbers(agent).items():
        assert key not in before or (before[key] == value).all()
    engine.update(*make_batch(1))
    assert agent.updates == 1
    steps = [state["step"].item() for state in agent.critic_optimizer.state.values()]
    assert steps == [1] * len(steps)
    other = make_agent()
    other.update(*make_batch(2))
    for name, network in agent.networks().items():
        network.load_state_dict(other.networks()[name].state_dict())
    assert_shares(engine)


def test_loaded_optimisers_are_adopted_anew() -> None:
    saved, agent = make_agent(), make_agent()
    for seed in range(3):
        saved.update(*make_batch(seed))
    engine = Fused(agent)
    engine.update(*make_batch(9))
    agent.updates = saved.updates
    for name, network in agent.networks().items():
        network.load_state_dict(saved.networks()[name].state_dict())
    for name in ("actor_optimizer", "critic_optimizer"):
        getattr(agent, name).load_state_dict(copy.deepcopy(getattr(saved, name).state_dict()))
    engine.update(*make_batch(4))
    saved.update(*make_batch(4))
    assert_shares(engine)
    assert_close(agent, saved, 1e-4)


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_engines_take_turns(delay: int) -> None:
    config = dataclasses.replace(SMALL, policy_delay=delay)
    agent, eager = (make_agent(config, dtype=torch.float64) for _ in range(2))
    engine: Fused | None = None
    for seed in range(30):
        batch, noise = make_batch(seed, dtype=np.float64)
        if seed == 10:
            engine = Fused(agent)
        seen = agent.update(batch, noise) if engine is None or seed >= 20 else engine.update(batch, noise)
        expected = eager.update(batch, noise)
        assert (seen.actor_loss is None) == (expected.actor_loss is None) == ((seed + 1) % delay != 0)
    assert agent.updates == 30
    assert_close(agent, eager, 1e-9)


def test_batches_of_changing_sizes() -> None:
    agent, eager = (make_agent(dtype=torch.float64) for _ in range(2))
    engine = Fused(agent, 2)
    for seed, size in enumerate((7, 7, 40, 1, 40)):
        batch, noise = make_batch(seed, size, dtype=np.float64)
        engine.update(batch, noise)
        eager.update(batch, noise)
    assert_close(agent, eager, 1e-9)


@pytest.mark.parametrize("layer_norm", ["none", "both"])
@pytest.mark.parametrize("field", range(5))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_reaches_the_loss(field: int, value: float, layer_norm: Any) -> None:
    engine = Fused(make_agent(TD3Config(hidden=(16, 16), layer_norm=layer_norm)))
    batch, noise = make_batch(1)
    batch[field][3] = value
    seen = engine.update(batch, noise)
    assert not np.isfinite(seen.critic_loss)
    assert not np.isfinite(engine.update(*make_batch(2)).critic_loss)


@pytest.mark.parametrize("network", ["actor_target", "critic_target", "critic"])
def test_a_weight_that_is_not_a_number_reaches_the_loss(network: str) -> None:
    agent = make_agent()
    engine = Fused(agent)
    with torch.no_grad():
        next(iter(agent.networks()[network].parameters())).fill_(np.nan)
    assert np.isnan(engine.update(*make_batch(1)).critic_loss)


@pytest.mark.parametrize("name", ["eager", "fused"])
@pytest.mark.parametrize("part", ["obs", "next_obs", "action", "reward", "terminated", "discount", "noise"])
def test_what_would_broadcast_or_be_read_past_its_end_is_refused(name: str, part: str) -> None:
    agent = make_agent()
    engine = choose.choose(name, agent, threads=1).engine
    batch, noise = make_batch(1)
    parts = batch._asdict() | {"noise": noise}
    wrong = parts[part][:, None] if parts[part].ndim == 1 else parts[part][0]
    parts[part] = wrong
    noise = parts.pop("noise")
    before = numbers(agent)
    with pytest.raises(ValueError, match="do not fit together"):
        engine.update(Batch(**parts), noise)
    assert all(np.array_equal(before[key], value) for key, value in numbers(agent).items())
    assert agent.updates == 0


@pytest.mark.parametrize("threads", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
def test_td_errors_are_what_the_critics_were_wrong_by_and_asking_for_them_changes_nothing(threads: int) -> None:
    asked, silent, eager = make_agent(), make_agent(), make_agent()
    engine, other = Fused(asked, threads), Fused(silent, threads)
    for seed in range(4):
        batch, noise = make_batch(seed)
        tensors, drawn = Batch(*map(torch.from_numpy, batch)), torch.from_numpy(noise)
        wrong_by = eager.target_q(tensors, drawn) - torch.stack(eager.critic(tensors.obs, tensors.action))
        info, expected = engine.update(batch, noise, True), eager.update(batch, noise, True)
        assert torch.equal(torch.as_tensor(expected.td_error), wrong_by.detach())
        np.testing.assert_allclose(np.asarray(info.td_error), wrong_by.detach().numpy(), atol=1e-5)
        assert other.update(batch, noise) == info._replace(td_error=None)
        for name, value in numbers(silent).items():
            assert np.array_equal(value, numbers(asked)[name]), name


def test_the_fused_actor_reads_no_further_than_its_observation() -> None:
    with pytest.raises(ValueError, match=r"obs \(N, 5\)"):
        Fused(make_agent()).act(np.zeros((1, 3), np.float32))


class OtherTD3(TD3):
    """Somebody's own algorithm."""


def test_auto_takes_the_fastest_that_supports_the_agent() -> None:
    chosen = choose.choose("auto", make_agent(), threads=1)
    assert isinstance(chosen.engine, Fused)
    assert chosen.name == "fused"
    agent = make_agent()
    assert choose.choose("eager", agent, threads=1).engine is agent
    other = OtherTD3(Spaces.of_vectors(5, 2), SMALL, np.random.default_rng(0))
    chosen = choose.choose("auto", other, threads=1)
    assert chosen.engine is other
    assert chosen.name == "eager"
    assert "OtherTD3" in chosen.reason
    with pytest.raises(ConfigRefused, match="OtherTD3"):
        choose.choose("fused", other, threads=1)


def test_small_networks_get_one_thread_and_large_ones_all() -> None:
    small, large = Config().with_values({"hidden": (64, 64), "batch_size": 100}), Config()
    assert choose.choose_threads(Spaces.of_vectors(3, 1), small, cores=8) == 1
    assert choose.choose_threads(Spaces.of_vectors(17, 6), large, cores=2) == 2
    assert choose.choose_threads(Spaces.of_vectors(17, 6), large, cores=1) == 1


def assert_threads_end(make: Callable[[], CompiledEngine[Any]]) -> None:
    before = threading.active_count()
    gc.disable()  # it must end by itself: nothing may hold an engine in a circle
    try:
        engine = make()
        engine.update(*make_batch(1))
        assert threading.active_count() == before + 2
        del engine
        assert threading.active_count() == before
    finally:
        gc.enable()


def test_threads_end_with_their_engine() -> None:
    assert_threads_end(lambda: Fused(make_agent(), 3))


REPEATED = """
import hashlib, numpy as np
from t3d.config import Config, TD3Config
from t3d.engines.fused import Fused
from t3d.replay import Batch
from t3d.spaces import Spaces
from t3d.td3 import TD3
rng = np.random.default_rng(1)
agent = TD3(Spaces.of_vectors(3, 1), TD3Config(hidden=(16, 16)), np.random.default_rng(0))
engine = Fused(agent)
draw = lambda *shape: rng.standard_normal(shape, np.float32)
for _ in range(20):
    ends, discount = np.zeros(32, np.float32), np.ones(32, np.float32)
    batch = Batch(draw(32, 3), draw(32, 3), np.tanh(draw(32, 1)), draw(32), ends, discount)
    engine.update(batch, draw(32, 1))
print(hashlib.sha256(engine._numbers.weights.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_a_process_that_compiles_gets_the_bits_of_those_that_read_the_cache(tmp_path: Path) -> None:
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    seen = [subprocess.run([sys.executable, "-c", REPEATED], env=env, capture_output=True, text=True) for _ in range(2)]
    assert "compiling" in seen[0].stderr
    assert "compiling" not in seen[1].stderr
    assert seen[0].stdout == seen[1].stdout != ""
