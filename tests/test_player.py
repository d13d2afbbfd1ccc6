"""What plays: each operation and whole networks against PyTorch, and observations that are no numbers."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_runs
import torch
from msgspec import structs
from test_policy import OBS, saved
from threadpoolctl import threadpool_limits
from torch import nn

import t3d
from t3d.config import TD3Config
from t3d.env_spec import View
from t3d.errors import ConfigRefused
from t3d.formats import PolicyInfo
from t3d.networks import Actor, SaleActor, SalePolicy, StateEncoder
from t3d.policy import player, torch_nets
from t3d.policy.architectures import ARCHITECTURES, operations_of
from t3d.policy.player import FUNCTIONS, Operation, play
from t3d.policy.torch_nets import arrays_of
from t3d.runs import policies
from t3d.spaces import ObsPart, Spaces
from t3d.td3 import TD3


def info_of(spaces, hidden, layer_norm=False, architecture="mlp", embedding=256):
    """Return what a policy of a fresh actor says of itself."""
    return PolicyInfo(
        run="5a" * 32,
        env="Own-v0",
        algorithm="TD3",
        architecture=architecture,
        obs=spaces.obs,
        action_shape=spaces.action_shape,
        action_low=spaces.action_low,
        action_high=spaces.action_high,
        view=View(),
        period_s=None,
        hidden=hidden,
        layer_norm=layer_norm,
        embedding=embedding,
        env_steps=123,
        return_mean=None,
    )


def fresh_actor(obs_size, hidden, action_size, layer_norm):
    """Return an actor whose norms, too, have weights of their own, and its spaces."""
    spaces = Spaces.of_vectors(obs_size, action_size)
    rng = np.random.default_rng(obs_size)
    net = Actor(spaces, TD3Config(hidden=hidden, layer_norm="both" if layer_norm else "none"), rng)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.copy_(torch.from_numpy(rng.normal(1, 0.3, module.weight.shape)))
                module.bias.copy_(torch.from_numpy(rng.normal(0, 0.3, module.bias.shape)))
    return net, spaces


def fresh_sale(obs_size, hidden, action_size, embedding):
    """Return what plays of td7, and its spaces."""
    spaces, rng = Spaces.of_vectors(obs_size, action_size), np.random.default_rng(obs_size)
    config = TD3Config(hidden=hidden, embedding=embedding)
    return SalePolicy(StateEncoder(spaces, config, rng), SaleActor(spaces, config, rng)), spaces


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("hidden", [(5,), (256, 256), (33, 7, 129), (9, 8, 7, 6)])
def test_an_actor_plays_as_in_pytorch(hidden, layer_norm):
    net, spaces = fresh_actor(17, hidden, 6, layer_norm)
    obs = np.random.default_rng(0).normal(0, 2, (50, 17)).astype(np.float32)
    seen = play(operations_of(info_of(spaces, hidden, layer_norm), arrays_of(net)), obs)
    with torch.no_grad():
        np.testing.assert_allclose(seen, net(torch.from_numpy(obs)).numpy(), atol=1e-6)


@pytest.mark.parametrize("hidden", [(5,), (33, 18, 7)])
def test_td7s_actor_plays_as_in_pytorch(hidden):
    net, spaces = fresh_sale(17, hidden, 6, 13)
    obs = np.random.default_rng(0).normal(0, 2, (50, 17)).astype(np.float32)
    info = info_of(spaces, hidden, architecture="sale", embedding=13)
    tensors = arrays_of(net)
    assert sum(tensor.size for tensor in tensors.values()) == info.weights
    with torch.no_grad():
        np.testing.assert_allclose(
            play(operations_of(info, tensors), obs), net(torch.from_numpy(obs)).numpy(), atol=1e-6
        )


ROWS = np.random.default_rng(1).normal(0, 3, (20, 7)).astype(np.float32)
WEIGHT, BIAS = (np.random.default_rng(2).normal(size=shape).astype(np.float32) for shape in ((4, 7), (7,)))
IN_TORCH = {
    "dense": (lambda x: nn.functional.linear(x, torch.from_numpy(WEIGHT), torch.ones(4)), (WEIGHT, np.ones(4, "f4"))),
    "layer_norm": (
        lambda x: nn.functional.layer_norm(x, (7,), torch.from_numpy(BIAS), torch.ones(7)),
        (BIAS, np.ones(7, "f4")),
    ),
    "relu": (torch.relu, ()),
    "elu": (nn.functional.elu, ()),
    "avg_l1_norm": (lambda x: x / x.abs().mean(-1, keepdim=True).clamp(min=1e-8), ()),
    "tanh": (torch.tanh, ()),
}


def test_every_operation_is_tried():
    assert set(IN_TORCH) | {"concat"} | OF_IMAGES == set(FUNCTIONS)


OF_IMAGES = {"frames", "vectors", "convolution", "flat"}


@pytest.mark.parametrize("side", [16, 40])
@pytest.mark.parametrize("vectors", [0, 3])
def test_what_sees_images_plays_as_in_pytorch(side, vectors):
    parts = [ObsPart(name="obs/camera", shape=(side, side, 3), dtype="uint8")]
    parts += [ObsPart(name="obs/joints", shape=(vectors,))] if vectors else []
    spaces, rng = Spaces(tuple(parts), (2,), (-1.0,) * 2, (1.0,) * 2, View(side, "rgb", 2)), np.random.default_rng(0)
    net = TD3(spaces, TD3Config(hidden=(7, 5)), rng).policy_net()
    obs = rng.integers(0, 256, (9, spaces.seen_size)).astype(np.float32)
    info = structs.replace(info_of(spaces, (7, 5), architecture="cnn"), view=View(side, "rgb", 2))
    tensors = arrays_of(net)
    assert sum(tensor.size for tensor in tensors.values()) == info.weights
    assert torch_nets.architecture_of(net) == "cnn"
    operations = operations_of(info, tensors)
    assert {operation.kind for operation in operations} >= (OF_IMAGES if vectors else OF_IMAGES - {"vectors"})
    with torch.no_grad():
        np.testing.assert_allclose(play(operations, obs), net(torch.from_numpy(obs)).numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", IN_TORCH)
def test_an_operation_is_that_of_pytorch(kind):
    in_torch, weights = IN_TORCH[kind]
    seen = play([Operation(kind, (0,), 4 if kind == "dense" else 7, weights)], ROWS)
    np.testing.assert_allclose(seen, in_torch(torch.from_numpy(ROWS)).numpy(), atol=3e-6)


def test_by_hand():
    x = np.float32([3, -1])
    assert FUNCTIONS["avg_l1_norm"](x).tolist() == [1.5, -0.5]
    assert FUNCTIONS["avg_l1_norm"](0 * x).tolist() == [0, 0]
    assert FUNCTIONS["avg_l1_norm"](np.float32([1e-9, -1e-9])).tolist() == pytest.approx([0.1, -0.1])
    assert FUNCTIONS["elu"](x).tolist() == pytest.approx([3, np.exp(-1) - 1])
    assert FUNCTIONS["layer_norm"](x, np.float32([1, 2]), np.float32([0, 5])).tolist() == pytest.approx(
        [1, 3], abs=1e-5
    )
    assert FUNCTIONS["concat"](x, x).tolist() == [3, -1, 3, -1]
    # Two ways that meet again: what the first dense layer gave is taken twice.
    once = (np.float32([[1, 1], [1, -1]]), np.float32([0, 0]))
    last = (np.float32([[1, 1, 1, 1]]), np.float32([0.5]))
    ways = [
        Operation("dense", (0,), 2, once),
        Operation("relu", (1,), 2),
        Operation("concat", (1, 2), 4),
        Operation("dense", (3,), 1, last),
    ]
    assert play(ways, np.float32([[1, 3]])).tolist() == [[(4 - 2) + (4 + 0) + 0.5]]


def test_every_architecture_has_its_operations_and_its_class():
    assert set(ARCHITECTURES) == set(torch_nets._OURS)


@pytest.mark.parametrize(("obs_size", "hidden"), [(1, (3,)), (17, (256, 256)), (300, (301, 299)), (9_001, (5,))])
def test_a_row_has_the_same_bits_alone_in_a_batch_and_whatever_the_threads(obs_size, hidden):
    net, spaces = fresh_actor(obs_size, hidden, 6, True)
    operations = operations_of(info_of(spaces, hidden, True), arrays_of(net))
    obs = np.random.default_rng(0).normal(0, 2, (9, obs_size)).astype(np.float32)
    batch = play(operations, obs)
    for threads in (1, 2):
        with threadpool_limits(threads):
            alone = [play(operations, row[None])[0] for row in obs]
        assert np.array(alone).tobytes() == batch.tobytes()


def test_no_sum_is_left_to_a_library_with_threads():
    nodes = list(ast.walk(ast.parse(Path(player.__file__).read_text("utf-8"))))
    assert not any(isinstance(node, ast.MatMult) for node in nodes)
    assert {n.attr for n in nodes if isinstance(n, ast.Attribute)}.isdisjoint(
        {"dot", "matmul", "inner", "vecdot", "mean"}
    )


def test_tensors_of_another_network_are_refused():
    net, spaces = fresh_actor(4, (3,), 2, False)
    tensors, info = arrays_of(net), info_of(spaces, (3,))
    with pytest.raises(ValueError, match=r"there is no tensor body\.1\.weight"):
        operations_of(info_of(spaces, (3,), True), tensors)
    with pytest.raises(ValueError, match="tensors that mlp does not have: more"):
        operations_of(info, tensors | {"more": np.zeros(1, np.float32)})
    for wrong in (np.zeros((3, 4)), np.zeros((4, 3), np.float32), np.full((3, 4), np.nan, np.float32)):
        with pytest.raises(ValueError, match=r"body.0.weight, .* is not \(3, 4\) finite float32"):
            operations_of(info, tensors | {"body.0.weight": wrong})


# ---- a recorded evaluation is repeated to the bit


@pytest.mark.parametrize("normalize_obs", [False, True])
@pytest.mark.parametrize("algorithm", ["td3", "td7"])
def test_a_loaded_policy_repeats_every_recorded_evaluation(tmp_path, normalize_obs, algorithm):
    options = {"normalize_obs": normalize_obs, "hidden": (20, 20), "algorithm": algorithm}
    options |= {"layer_norm": "both"} if algorithm == "td3" else {"embedding": 7, "n_envs": 1, "train_at": "episode"}
    options["max_episode_steps"] = 20
    session = small_runs.train(tmp_path / "run", env="Pendulum-v1", **options)
    last = session.rows("evaluation")[-1]
    seen = policies.evaluate_run(tmp_path / "run", "last").seen
    assert (seen.returns, seen.lengths) == (last["returns"], last["lengths"])


# ---- what is no number


@pytest.fixture
def policy(tmp_path):
    saved(tmp_path)
    return t3d.load(tmp_path)


@pytest.fixture
def holding(tmp_path):
    saved(tmp_path)
    return t3d.load(tmp_path, on_bad="hold")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_an_observation_that_is_not_finite_is_refused(policy, bad):
    obs = OBS.copy()
    obs[3, 1] = bad
    with pytest.raises(ValueError, match=r"the observation of row 3 is not finite at index \[1\]: .*on_bad='hold'"):
        policy(obs)
    with pytest.raises(ValueError, match=r"the observation is not finite at index \[1\]"):
        policy(obs[3])
    assert policy.held == 0


def test_the_last_good_action_of_the_row_is_held(holding):
    with pytest.raises(ValueError, match="no good action has been seen"):
        holding([np.nan] * 4)
    good = holding(OBS[0]).copy()
    np.testing.assert_array_equal(holding([np.nan, 0, 0, 0]), good)
    np.testing.assert_array_equal(holding([0, np.inf, 0, 0]), good)
    assert holding.held == 2
    changed = OBS[:3].copy()
    changed[0] += 1
    batch = holding(changed)  # row 0 is the single one's
    changed[[0, 2]] = np.nan
    np.testing.assert_array_equal(holding(changed), batch)
    assert holding.held == 4
    with pytest.raises(ValueError, match=r"row 4 .* no good action has been seen"):
        holding(np.vstack([OBS[:4], np.full((1, 4), np.nan)]))
    new = holding(OBS[3])  # what the caller does with an action changes no other
    new[:] = 99
    assert holding([np.nan] * 4).max() < 99
    holding.reset()
    assert holding.held == 0
    with pytest.raises(ValueError, match="no good action"):
        holding(np.full(4, np.nan))


def test_no_action_that_is_not_finite_is_returned(holding, policy):
    largest = np.full(4, np.finfo(np.float32).max)
    for one in (policy, holding):
        one._net = lambda obs: np.full((len(obs), 3), np.nan, np.float32)
        with pytest.raises(ValueError, match=r"the action for the observation is not finite; the largest .*e\+38"):
            one(largest)


@pytest.mark.parametrize("obs", [["a"] * 4, [1j] * 4, [None] * 4, [[1, 2], [3]], {"obs": 1}, None, "1234"])
def test_what_holds_no_numbers_is_refused(policy, obs):
    with pytest.raises(ValueError, match="this policy takes"):
        policy(obs)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8, bool])
def test_other_kinds_of_numbers_are_taken(policy, dtype):
    obs = np.ones(4, dtype)
    np.testing.assert_array_equal(policy(obs), policy(np.ones(4, np.float32)))


def test_another_word_for_on_bad_is_refused(tmp_path):
    saved(tmp_path)
    with pytest.raises(ConfigRefused, match="on_bad = ignore"):
        t3d.load(tmp_path, on_bad="ignore")


def test_loading_a_policy_imports_nothing_heavy(tmp_path):
    saved(tmp_path)
    heavy = {"torch", "gymnasium", "numba", "scipy", "rich", "t3d.training", "t3d.td3", "t3d.runs", "t3d.networks"}
    code = f"import sys, t3d; t3d.load({str(tmp_path)!r})([0, 0, 0, 0]); print(*{heavy!r} & set(sys.modules))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.split() == []
