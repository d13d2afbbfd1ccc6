"""The fused engine of td7 against the text it speeds up: `variants/td7.py`."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engines import assert_threads_end, make_batch

from t3d.config import Config, TD3Config
from t3d.engines import choose
from t3d.engines import kernels as shared
from t3d.engines import sale_kernels as k
from t3d.engines.sale import FusedSale
from t3d.engines.sale_layers import bias_elu, bias_norm, norm_gradient
from t3d.engines.sale_layout import plan_work
from t3d.errors import ConfigRefused
from t3d.networks import avg_l1_norm
from t3d.spaces import Spaces
from t3d.td3 import TD3
from t3d.variants.td7 import COPY_EVERY, JUDGED_LONGER_FROM, TD7

torch.set_num_threads(1)

SMALL = TD3Config(hidden=(16, 12), embedding=10)


def make_agent(config: TD3Config = SMALL, size: int = 5, actions: int = 2, dtype: Any = torch.float32) -> TD7:
    agent = TD7(Spaces.of_vectors(size, actions), config, np.random.default_rng(7))
    for network in agent.networks().values():
        network.to(dtype)
    return agent


def numbers(agent: TD7) -> dict[str, Any]:
    """Return everything an update changes, as copies."""
    return {name: tensor.clone().numpy() for name, tensor in agent.tensors().items()}


def assert_close(got: TD7, expected: TD7, tolerance: float) -> None:
    """Compare tensor by tensor, each by its largest number."""
    a, b = numbers(got), numbers(expected)
    assert a.keys() == b.keys()
    for key in a:
        assert np.abs(a[key] - b[key]).max(initial=0) <= tolerance * (np.abs(b[key]).max(initial=0) + 1e-30), key


def assert_same_bits(got: TD7, expected: TD7) -> None:
    a, b = numbers(got), numbers(expected)
    assert [key for key in a if not np.array_equal(a[key], b[key], equal_nan=True)] == []


def assert_shares(engine: FusedSale) -> None:
    """Assert that what the agent shows is the engine's memory: one block, each tensor on 64 bytes."""
    agent, low = engine.agent, engine._numbers.weights.ctypes.data
    high = low + engine._numbers.weights.nbytes
    kept = agent.checkpoint.parameters()
    beside = {tensor.data_ptr() for tensor in (*kept, agent.bar, agent.worst, agent.episodes)}
    bounds = {agent.clamp.data_ptr(), agent.extremes.data_ptr()}
    steps = range(low_of_steps := engine._numbers.steps.ctypes.data, low_of_steps + engine._numbers.steps.nbytes)
    shown = [tensor.data_ptr() for tensor in agent.tensors().values()]
    inside = [place for place in shown if place not in beside | bounds and place not in steps]
    assert len(inside) == len(set(inside)) > 0
    assert all(low <= place < high and place % 64 == 0 for place in inside)
    memory = engine._memory(1, 1)
    assert {memory.clamp.ctypes.data, memory.extremes.ctypes.data} == bounds


SHAPES = st.fixed_dictionaries(
    {
        "hidden": st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
        "embedding": st.integers(1, 24),
        "climb": st.sampled_from(["mean", "q1"]),
        "pre_tanh_weight": st.sampled_from([0.0, 0.5]),
        "batch": st.integers(1, 40),
        "size": st.integers(1, 20),
        "actions": st.integers(1, 7),
        "threads": st.integers(1, 4),
    }
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(SHAPES)
def test_gradients_are_those_of_autograd(shape: dict[str, Any]) -> None:
    names = "hidden", "embedding", "climb", "pre_tanh_weight"
    config = TD3Config(policy_delay=1, **{name: shape[name] for name in names})
    sizes = {"size": shape["size"], "actions": shape["actions"]}
    agent, eager = (make_agent(config, **sizes, dtype=torch.float64) for _ in range(2))
    batch, noise = make_batch(1, shape["batch"], **sizes, dtype=np.float64)
    batch.reward[::2] *= 3  # errors on both sides of Huber's corner
    for some in (agent, eager):
        some.clamp.copy_(torch.tensor([-0.1, 0.2]))
    seen, expected = FusedSale(agent, shape["threads"]).update(batch, noise), eager.update(batch, noise)
    for a, b in zip(seen[:5], expected[:5], strict=True):
        assert a == pytest.approx(float(b), rel=1e-12, abs=1e-12)
    # Adam's first moments, a tenth of the gradients, by each network's largest.
    a, b = numbers(agent), numbers(eager)
    for name in agent.optimizers():
        keys = [key for key in a if key.startswith(f"{name}_adam.") and key.endswith("exp_avg")]
        largest = max(np.abs(b[key]).max() for key in keys)
        worst = max(np.abs(a[key] - b[key]).max() for key in keys)
        assert worst <= 1e-10 * largest + 1e-18, (name, worst, largest)
    assert np.array_equal(a["extremes"], b["extremes"])


@pytest.mark.parametrize(
    ("hidden", "climb", "threads"),
    [
        ((11,), "mean", 2),
        *(pytest.param(*rest, marks=pytest.mark.slow) for rest in (((16, 12, 9), "q1", 1), ((8, 8), "mean", 3))),
    ],
)
def test_float64_stays_with_eager_past_two_copies(hidden: tuple[int, ...], climb: Any, threads: int) -> None:
    config = TD3Config(hidden=hidden, embedding=7, climb=climb, pre_tanh_weight=1e-3)
    agent, eager = (make_agent(config, 5, 3, torch.float64) for _ in range(2))
    fused, copies = FusedSale(agent, threads), 0
    for seed in range(2 * COPY_EVERY + 20):
        batch, noise = make_batch(seed, 13, 5, 3, np.float64)
        fused.update(batch, noise)
        eager.update(batch, noise)
        copies += agent.updates % COPY_EVERY == 0
    assert copies == 2
    assert_close(agent, eager, 1e-9)


def test_float32_strays_little_from_eager() -> None:
    agent, eager = make_agent(), make_agent()
    fused = FusedSale(agent)
    for seed in range(10):
        batch, noise = make_batch(seed)
        fused.update(batch, noise)
        eager.update(batch, noise)
    for name, network in agent.networks().items():
        for a, b in zip(network.parameters(), eager.networks()[name].parameters(), strict=True):
            assert torch.linalg.vector_norm(a - b) <= 1e-4 * torch.linalg.vector_norm(b), name


OPTIONS = [
    {"hidden": (16, 24)},
    {"lr": 1e-3},
    {"policy_noise": 0.9},
    {"noise_clip": 0.01},
    {"policy_delay": 3},
    {"embedding": 8},
    {"climb": "q1"},
    {"pre_tanh_weight": 0.1},
]


@pytest.mark.parametrize("changed", OPTIONS)
def test_every_option_takes_effect_as_in_eager(changed: dict[str, Any]) -> None:
    config = dataclasses.replace(SMALL, **changed)
    agents = make_agent(config, dtype=torch.float64), make_agent(config, dtype=torch.float64)
    plain = make_agent(SMALL, dtype=torch.float64)
    for some in (*agents, plain):
        some.clamp.copy_(torch.tensor([-5.0, 5.0]))  # at first nothing of the next action comes through
    fused, plain_fused = FusedSale(agents[0]), FusedSale(plain)
    for seed in range(4):
        batch, noise = make_batch(seed, dtype=np.float64)
        fused.update(batch, noise)
        agents[1].update(batch, noise)
        plain_fused.update(batch, noise)
    assert_close(*agents, 1e-9)
    a, b = numbers(agents[0]), numbers(plain)
    assert a.keys() != b.keys() or any(a[key].shape != b[key].shape or (a[key] != b[key]).any() for key in a)


def test_the_list_of_options_above_is_complete() -> None:
    td3_alone = {field.name for field in dataclasses.fields(TD3Config) if field.metadata.get("only") == "td3"}
    tested = {name for change in OPTIONS for name in change}
    # The discount comes with the batch.
    assert tested == {field.name for field in dataclasses.fields(TD3Config)} - td3_alone - {"gamma"}


def test_each_optimiser_moves_by_its_own_learning_rate() -> None:
    agent, eager = (make_agent(dtype=torch.float64) for _ in range(2))
    for some in (agent, eager):
        for times, optimizer in enumerate(some.optimizers().values(), start=1):
            optimizer.param_groups[0]["lr"] *= times
    engine = FusedSale(agent)
    for seed in range(2):
        batch, noise = make_batch(seed, dtype=np.float64)
        engine.update(batch, noise)
        eager.update(batch, noise)
    assert_close(agent, eager, 1e-9)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_each_time_and_after_a_restore(threads: int) -> None:
    first, second = make_agent(), make_agent()
    one, two = FusedSale(first, threads), FusedSale(second, threads)
    first.updates = COPY_EVERY - 8
    for seed in range(5):
        one.update(*make_batch(seed))
    for name, tensor in second.tensors().items():
        tensor.copy_(first.tensors()[name])
    second.updates = first.updates
    for seed in range(5, 11):
        one.update(*make_batch(seed))
        two.update(*make_batch(seed))
    assert first.updates > COPY_EVERY
    assert_same_bits(first, second)


def test_the_agent_shows_the_engines_memory_and_what_is_replaced_is_adopted_anew() -> None:
    agent, saved = make_agent(), make_agent()
    before = numbers(agent)
    engine = FusedSale(agent)
    assert_shares(engine)
    assert all(np.array_equal(value, before[name]) for name, value in numbers(agent).items())
    for seed in range(3):
        saved.update(*make_batch(seed))
    engine.update(*make_batch(9))
    agent.updates = saved.updates
    for name, network in agent.networks().items():
        network.load_state_dict(saved.networks()[name].state_dict())
    for name, optimizer in agent.optimizers().items():
        optimizer.load_state_dict(copy.deepcopy(saved.optimizers()[name].state_dict()))
    agent.extremes.copy_(saved.extremes)
    engine.update(*make_batch(4))
    saved.update(*make_batch(4))
    assert_shares(engine)
    assert_close(agent, saved, 1e-4)
    for some in (agent, saved):
        some.extremes, some.clamp = torch.tensor([-3.0, 3.0]), torch.tensor([-0.5, 0.5])
    engine.update(*make_batch(5))
    saved.update(*make_batch(5))
    assert_shares(engine)
    assert_close(agent, saved, 1e-4)


def test_batches_of_changing_sizes_and_engines_in_turns() -> None:
    agent, eager = (make_agent(dtype=torch.float64) for _ in range(2))
    engine = FusedSale(agent, 2)
    for seed, size in enumerate((7, 7, 40, 1, 40, 9)):
        batch, noise = make_batch(seed, size, dtype=np.float64)
        seen = agent.update(batch, noise) if seed in (2, 5) else engine.update(batch, noise)
        expected = eager.update(batch, noise)
        assert (seen.actor_loss is None) == (expected.actor_loss is None) == (seed % 2 == 0)
    assert_close(agent, eager, 1e-9)


@pytest.mark.parametrize("field", range(5))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_reaches_the_loss(field: int, value: float) -> None:
    engine, eager = FusedSale(make_agent()), make_agent()
    batch, noise = make_batch(1)
    batch[field][3] = value
    seen, expected = engine.update(batch, noise), eager.update(batch, noise)
    assert np.isfinite(seen.critic_loss) == np.isfinite(float(expected.critic_loss))
    if field in (0, 2, 3) or np.isnan(value):
        assert not np.isfinite(seen.critic_loss)


@pytest.mark.parametrize("name", ["actor_target", "critic_target", "critic", "encoder_fixed", "encoder_fixed_target"])
def test_a_weight_that_is_not_a_number_reaches_the_loss(name: str) -> None:
    agent = make_agent()
    engine = FusedSale(agent)
    with torch.no_grad():
        next(iter(agent.networks()[name].parameters())).fill_(np.nan)
    assert np.isnan(engine.update(*make_batch(1)).critic_loss)


def test_an_encoder_that_is_not_finite_reaches_the_loss_with_the_next_copy() -> None:
    agent = make_agent()
    engine = FusedSale(agent)
    agent.updates = COPY_EVERY - 1
    batch, noise = make_batch(1)
    batch.next_obs[3, 0] = np.inf
    engine.update(batch, noise)
    assert np.isnan(engine.update(*make_batch(2)).critic_loss)


@pytest.mark.parametrize("threads", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_td_errors_are_what_the_critics_were_wrong_by(threads: int) -> None:
    asked, silent, eager = make_agent(), make_agent(), make_agent()
    engine, other = FusedSale(asked, threads), FusedSale(silent, threads)
    for seed in range(3):
        batch, noise = make_batch(seed)
        info, expected = engine.update(batch, noise, True), eager.update(batch, noise, True)
        np.testing.assert_allclose(np.asarray(info.td_error), np.asarray(expected.td_error), atol=1e-5)
        assert other.update(batch, noise) == info._replace(td_error=None)
    assert_same_bits(silent, asked)


def test_threads_end_with_their_engine() -> None:
    assert_threads_end(lambda: FusedSale(make_agent(), 3))


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_only_the_penalty_leads_an_actor_back_from_its_bounds(threads: int | None) -> None:
    left = []
    for weight in (0.0, 1e-5):
        agent = make_agent(dataclasses.replace(SMALL, policy_delay=1, pre_tanh_weight=weight))
        with torch.no_grad():
            agent.actor.body[-1].bias.fill_(30)  # tanh is 1 there, and its slope 0, in float32
        engine = agent if threads is None else FusedSale(agent, threads)
        engine.update(*make_batch(0))
        left.append(agent.actor.body[-1].bias.tolist())
    assert left[0] == [30, 30]
    assert max(left[1]) < 30


def test_act_plays_as_the_agent_does() -> None:
    agent = make_agent()
    expected, engine = copy.deepcopy(agent), FusedSale(agent)
    for n in (1, 4, 33):
        obs = np.random.default_rng(n).standard_normal((n, 5)).astype(np.float32)
        action = engine.act(obs)
        assert (action.shape, action.dtype) == ((n, 2), np.float32)
        np.testing.assert_allclose(action, expected.act(obs), atol=1e-6)
    with pytest.raises(ValueError, match=r"obs \(N, 5\)"):
        engine.act(np.zeros((1, 3), np.float32))


def test_the_bar_is_lowered_when_a_policy_is_judged_longer() -> None:
    agent = make_agent()
    engine = FusedSale(agent)
    agent.updates = JUDGED_LONGER_FROM
    agent.bar.fill_(-200)
    for seed in range(2):
        engine.update(*make_batch(seed))
    assert agent.bar == -220


class OtherTD7(TD7):
    """Somebody's own algorithm."""


def test_auto_takes_it_where_it_can() -> None:
    chosen = choose.choose("auto", make_agent(), threads=1)
    assert isinstance(chosen.engine, FusedSale)
    assert chosen.name == "fused"
    other = OtherTD7(Spaces.of_vectors(5, 2), SMALL, np.random.default_rng(0))
    chosen = choose.choose("auto", other, threads=1)
    assert (chosen.engine, chosen.name) == (other, "eager")
    assert "OtherTD7" in chosen.reason
    with pytest.raises(ConfigRefused, match="OtherTD7"):
        choose.choose("fused", other, threads=1)
    agent = make_agent()
    agent.encoder.zs.body[1] = torch.nn.ELU(alpha=0.5)
    assert "MLP" in choose.choose("auto", agent, threads=1).reason
    agent = make_agent()
    agent.encoder_optimizer.param_groups[0]["weight_decay"] = 0.1
    assert "plain Adam" in choose.choose("auto", agent, threads=1).reason


# ---- Its layers


def test_elu_is_exact_to_a_few_units_in_the_last_place_and_is_no_call() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([-np.exp(rng.uniform(-30, 5, 60_000)), rng.standard_normal(5_536)]).astype(np.float32)
    y, no_bias = x.copy(), np.zeros(256, np.float32)
    bias_elu(y, no_bias, len(x) // 256, 256)
    exact = np.where(x > 0, x, np.expm1(x.astype(np.float64)))
    assert np.abs(y - exact).max() <= 1.5 * 2**-23  # one and a half units of 1
    assert (np.abs(y - exact) / np.abs(exact)).max() <= 3 * 2**-23  # and three units of itself, however small
    compiled = bias_elu.inspect_asm().items()  # type: ignore[attr-defined]
    (assembly,) = (text for kinds, text in compiled if kinds[0].dtype == numba.float32)
    assert "expm1" not in assembly
    special = np.array([np.nan, np.inf, -np.inf, 0.0], np.float32)
    bias_elu(special, no_bias, 1, 4)
    np.testing.assert_array_equal(special, np.array([np.nan, np.inf, -1, 0], np.float32))


def test_a_row_of_zeros_stays_and_its_gradient_is_finite() -> None:
    x = torch.tensor([[0.0, 0, 0], [2, -1, 0], [1e-12, 0, -1e-12]], dtype=torch.float64, requires_grad=True)
    dy = torch.tensor([[1.0, 2, 3], [-1, 0.5, 2], [1, 1, 2]], dtype=torch.float64)
    expected = avg_l1_norm(x)
    expected.backward(dy)
    y, dx, size, d_bias = x.detach().numpy().copy().ravel(), dy.numpy().copy().ravel(), np.zeros(3), np.zeros(3)
    bias_norm(y, 3, np.zeros(3), size, 3, 3)
    norm_gradient(y, 3, dx, size, d_bias, 3, 3)
    np.testing.assert_allclose(y.reshape(3, 3), expected.detach().numpy(), rtol=1e-14)
    assert x.grad is not None
    np.testing.assert_allclose(dx.reshape(3, 3), x.grad.numpy(), rtol=1e-13)
    np.testing.assert_allclose(d_bias, x.grad.numpy().sum(0), rtol=1e-13)


# ---- Its table


def plan(threads: int, climbed: int = 2, batch: int = 9) -> tuple[Any, Any, Any, Any]:
    engine = FusedSale(make_agent(), 1)
    return plan_work(engine._tables, climbed, batch, threads, np.dtype(np.float32))


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_what_is_in_use_at_one_time_shares_no_memory(threads: int) -> None:
    net, stages, at, work = plan(threads)
    batch, layers = int(at[shared.B]), int(at[shared.LAYERS])

    def rooms(*networks: int, of: tuple[int, ...] = (k.Y, k.DELTA)) -> list[tuple[int, int]]:
        counts = {network: 3 if network in (k.ENCODE_ZS, k.ENCODE_ZSA, k.ZSA) else layers for network in networks}
        rows = [row for network in networks for row in net[at[network] : at[network] + counts[network]]]
        found = [(row[k.DELTA], batch * row[k.OUTPUTS]) for row in rows if k.DELTA in of]
        # Answers that lie in a wider matrix are part of what the layer behind reads, and counted there.
        found += [(row[k.Y], batch * row[k.OUTPUTS]) for row in rows if row[k.Y_STRIDE] == row[k.OUTPUTS]]
        found += [(row[k.SIZE], batch) for row in rows if row[k.KIND] == k.NORM]
        return found + [(row[k.PARTIAL], threads * row[k.PARTIAL_SIZE]) for row in rows]

    wide = {
        (int(net[at[head] + 1, k.X]), batch * int(net[at[head] + 1, k.X_STRIDE])) for head in (k.CRITIC_1, k.CRITIC_2)
    }
    width = int(at[shared.S] + at[shared.A])
    inputs = [(at[entry], batch * width) for entry in (shared.OBS_ACTION, shared.NEXT)]
    inputs += [(at[entry], batch) for entry in (shared.REWARD, shared.TERMINATED, shared.DISCOUNT, k.TARGETS)]
    inputs += [(at[shared.ERRORS], 2 * batch), (at[shared.GRAD], threads * at[shared.GRAD_SIZE])]
    inputs += [(at[entry], batch * at[shared.A]) for entry in (shared.NOISE, k.D_ACTION)]
    read = net[at[k.ENCODE_ZSA]]
    assert_apart([*inputs, *wide, (read[k.X], batch * read[k.X_STRIDE]), *rooms(k.ENCODE_ZS, k.ENCODE_ZSA)], len(work))
    read = net[at[k.ACTOR] + 1]
    own = [*inputs, *wide, (read[k.X], batch * read[k.X_STRIDE]), (at[k.D_ZSA], batch * at[k.E])]
    critics = [k.CRITIC_1] if threads == 1 else [k.CRITIC_1, k.CRITIC_2]
    assert_apart([*own, *rooms(k.ZSA, k.ACTOR, *critics)], len(work))
    assert at[shared.GRAD_SIZE] >= max(row[k.INPUTS] * -(-row[k.OUTPUTS] // threads) for row in net)
    assert stages[:, k.WAIT].tolist() == [1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1]


def assert_apart(regions: list[tuple[int, int]], end: int) -> None:
    ordered = sorted((int(start), int(size)) for start, size in regions)
    ends = [start + size for start, size in ordered]
    assert all(a <= b for a, (b, _) in zip(ends, [*ordered[1:], (end, 0)], strict=True))


@pytest.mark.parametrize("climbed", [1, 2])
def test_the_table_asks_for_the_products_of_the_floor_and_no_other(
    climbed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1] / "benchmarks"), *sys.path])
    from floor import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, Product, products_td7

    net, stages, at, _ = plan(1, climbed)
    found: Counter[Product] = Counter()
    for update in range(2):
        for stage in stages if update else stages[: at[k.RESTING]]:
            first, back = (int(stage[column]) for column in (k.FORWARD, k.BACK))
            for row in net[first : first + stage[k.FORWARD_LAYERS]].tolist():
                found[Product(FORWARD, 9, row[k.INPUTS], row[k.OUTPUTS])] += 1
            for layer in range(back, back + int(stage[k.BACK_LAYERS])):
                row = net[layer].tolist()
                if layer > back:
                    found[Product(INPUT_GRADIENT, 9, int(net[layer - 1, k.OUTPUTS]), row[k.OUTPUTS])] += 1
                if stage[k.MOVES] >= 0:
                    found[Product(WEIGHT_GRADIENT, 9, row[k.INPUTS], row[k.OUTPUTS])] += 1
                elif row[k.ASIDE_WIDTH] > 0:
                    found[Product(INPUT_GRADIENT, 9, row[k.ASIDE_WIDTH], row[k.OUTPUTS])] += 1
    assert found == products_td7(5, 2, (16, 12), 10, climbed, 9)


def test_threads_follow_from_what_an_update_costs() -> None:
    small = Config(algorithm="td7").with_values({"hidden": (32, 32), "embedding": 16, "batch_size": 64})
    large = Config(algorithm="td7", batch_size=128)
    spaces = Spaces.of_vectors(17, 6)
    assert choose.choose_threads(spaces, small, cores=8) == 1
    assert choose.choose_threads(spaces, large, cores=2) == 2
    # What the products of the floor come to, at the sizes of the preset fast and of td7.
    fast = large.with_values({"embedding": 128, "climb": "q1"})
    assert choose.multiply_adds(spaces, fast) == pytest.approx(328.6e6, rel=0.1)
    assert choose.multiply_adds(spaces, large) == pytest.approx(611e6, rel=0.1)


def test_td3_is_no_td7() -> None:
    td3 = TD3(Spaces.of_vectors(5, 2), TD3Config(hidden=(8, 8)), np.random.default_rng(0))
    assert not isinstance(choose.choose("auto", td3, threads=1).engine, FusedSale)
