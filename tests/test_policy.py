"""A trained policy on its own: calls, the predict convention, and files from strangers."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from small_runs import train
from strangers import description_of, sealed_policy

import t3d
from t3d.config import TD3Config
from t3d.env_spec import EnvSpec, View
from t3d.environments.envs import Envs
from t3d.formats import PolicyInfo
from t3d.policy.files import encode
from t3d.policy.policy import Policy
from t3d.policy.torch_nets import arrays_of
from t3d.runs import run_folder
from t3d.spaces import ObsPart, Spaces
from t3d.td3 import TD3

OWN = str(Path(__file__).with_name("own_envs.py"))
HIDDEN = (8, 6)
RUN = "5a" * 32
LOW, HIGH = np.float32([0, -0.4, -2]), np.float32([1, 0.4, 2])
OBS = np.random.default_rng(0).normal(0, 3, (5, 4))


def saved(path, which="best", obs_shape=(4,), action_shape=(3,), seed=7, **fields):
    """Save a fresh actor as the policy of a run folder. Return the agent."""
    agent = TD3(Spaces.of_vectors(4, 3), TD3Config(hidden=HIDDEN), np.random.default_rng(seed))
    info = PolicyInfo(
        run=RUN,
        env="Own-v0",
        algorithm="TD3",
        architecture="mlp",
        obs=(ObsPart(shape=obs_shape),),
        action_shape=action_shape,
        action_low=tuple(LOW.tolist()),
        action_high=tuple(HIGH.tolist()),
        view=View(),
        period_s=None,
        hidden=HIDDEN,
        layer_norm=False,
        embedding=256,
        **{"env_steps": 123, "return_mean": -4.5, **fields},
    )
    content = encode(info, arrays_of(agent.actor))
    run_folder.write_policy(run_folder.policy_path(path, which), content)
    return agent


def test_one_observation_and_a_batch(tmp_path):
    saved(tmp_path)
    policy = t3d.load(tmp_path)
    batch = policy(OBS)
    assert (batch.shape, batch.dtype) == ((5, 3), np.float32)
    for obs, action in zip(OBS, batch, strict=True):
        assert policy(obs).shape == (3,)
        np.testing.assert_array_equal(policy(obs), action)
    assert policy(OBS[:0]).shape == (0, 3)
    np.testing.assert_array_equal(policy(OBS), batch)  # and nothing is remembered
    np.testing.assert_array_equal(policy(OBS.tolist()), batch)
    np.testing.assert_array_equal(policy(OBS.astype(np.float32)), batch)
    np.testing.assert_array_equal(policy(np.asfortranarray(OBS)), batch)


def test_actions_are_the_actors_in_the_environments_units(tmp_path):
    agent = saved(tmp_path)
    with torch.no_grad():
        own = agent.actor(torch.from_numpy(OBS.astype(np.float32))).numpy()
    policy = t3d.load(tmp_path)
    np.testing.assert_allclose(policy.act(OBS.astype(np.float32)), own, atol=1e-6)
    wide = LOW.astype(np.float64) + (own.astype(np.float64) + 1) / 2 * (HIGH.astype(np.float64) - LOW)
    np.testing.assert_allclose(policy(OBS), wide, atol=1e-6)
    assert np.abs(own).max() < 1


@pytest.mark.parametrize("scale", [1e2, 1e6, 1e30])
def test_actions_never_leave_the_bounds(tmp_path, scale):
    saved(tmp_path)
    actions = t3d.load(tmp_path)(OBS * scale)
    assert (actions >= LOW).all()
    assert (actions <= HIGH).all()
    assert np.isin(actions, [LOW, HIGH]).any()  # saturated, so the ends are what was tested


def test_a_policy_acts_in_an_env_as_the_agent_did(tmp_path):
    agent = saved(tmp_path)
    policy = t3d.load(tmp_path)
    envs = Envs(EnvSpec(f"{OWN}:Walk"), 1, lambda i, k: k, fresh=False)
    got = []
    env = envs._envs.envs[0]
    env.step = lambda action, step=env.step: got.append(action.copy()) or step(action)
    for _ in range(10):
        obs = envs.obs
        envs.step(agent.act(obs))
        np.testing.assert_allclose(got[-1], policy(obs[0]), atol=1e-6)


def test_shapes_of_more_dimensions(tmp_path):
    saved(tmp_path, obs_shape=(2, 2), action_shape=(3, 1))
    policy = t3d.load(tmp_path)
    assert policy(OBS[0].reshape(2, 2)).shape == (3, 1)
    assert policy(OBS.reshape(5, 2, 2)).shape == (5, 3, 1)
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        policy(OBS[0])


@pytest.mark.parametrize("shape", [(3,), (5,), (2, 3), (4, 1), (1, 2, 4), ()])
def test_a_wrong_shape_is_refused(tmp_path, shape):
    saved(tmp_path)
    with pytest.raises(ValueError, match=r"takes observations of shape \(4,\) .*got"):
        t3d.load(tmp_path)(np.zeros(shape))


def test_predict_follows_the_convention_of_stable_baselines3(tmp_path):
    saved(tmp_path)
    policy = t3d.load(tmp_path)
    # What stable_baselines3.common.evaluation.evaluate_policy does with a vector of environments.
    envs = Envs(EnvSpec(f"{OWN}:Walk"), 2, lambda i, k: 10 * i + k, fresh=False)
    states, episode_starts = None, np.ones(2, bool)
    for _ in range(3):
        obs = envs.obs
        actions, states = policy.predict(obs, state=states, episode_start=episode_starts, deterministic=True)
        np.testing.assert_array_equal(actions, policy(obs))
        assert states is None
        envs.step(np.zeros((2, 3), np.float32))
        episode_starts = np.zeros(2, bool)
    np.testing.assert_array_equal(policy.predict(OBS[0], deterministic=False)[0], policy(OBS[0]))


def test_a_run_folder_gives_its_best_and_a_file_itself(tmp_path):
    saved(tmp_path, "best")
    saved(tmp_path, "last", seed=8, env_steps=200, return_mean=None)
    best, last = t3d.load(str(tmp_path)), t3d.load(tmp_path / "policy" / "last.safetensors")
    assert isinstance(best, Policy)
    assert (best.info.env_steps, best.info.return_mean, best.info.env) == (123, -4.5, "Own-v0")
    assert (last.info.env_steps, last.info.return_mean) == (200, None)
    assert not np.array_equal(best(OBS), last(OBS))
    robot = tmp_path / "robot.safetensors"  # one file is all it takes
    robot.write_bytes((tmp_path / "policy" / "best.safetensors").read_bytes())
    np.testing.assert_array_equal(t3d.load(robot)(OBS), best(OBS))


def test_it_says_where_it_is_from_and_what_it_sees(tmp_path):
    saved(tmp_path)
    info = t3d.load(tmp_path).info
    assert (info.format, info.run, info.algorithm, info.env) == (3, RUN, "TD3", "Own-v0")
    assert info.obs == (ObsPart(name="obs", shape=(4,), dtype="float32"),)
    with safetensors.safe_open(tmp_path / "policy" / "best.safetensors", "numpy") as file:
        assert list(file.metadata()) == ["t3d"]


def test_equal_policies_have_equal_bytes(tmp_path):
    for name in ("one", "two"):
        saved(tmp_path / name)
        train(tmp_path / f"run-{name}", steps=30)
    for one, two in (("one", "two"), ("run-one", "run-two")):
        policies = [(tmp_path / name / "policy" / "best.safetensors").read_bytes() for name in (one, two)]
        assert policies[0] == policies[1]
    saved(tmp_path / "two", seed=8)
    assert len({(tmp_path / name / "policy" / "best.safetensors").read_bytes() for name in ("one", "two")}) == 2


# --- files from strangers --------------------------------------------------------------------------------------


@pytest.fixture
def policy_dir(tmp_path):
    saved(tmp_path)
    return tmp_path / "policy"


def load_refused(policy_dir):
    with pytest.raises(t3d.Refused) as caught:
        t3d.load(policy_dir / "best.safetensors")
    return str(caught.value)


def test_nothing_there(tmp_path):
    for path in (tmp_path, tmp_path / "no", tmp_path / "no.safetensors"):
        with pytest.raises(t3d.Refused, match="there is no policy here"):
            t3d.load(path)


def test_cut_short_anywhere_or_longer_it_is_refused(policy_dir):
    file = policy_dir / "best.safetensors"
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert "not " in load_refused(policy_dir), length
    file.write_bytes(whole + b"\0")
    load_refused(policy_dir)


def test_a_changed_byte_anywhere_is_refused(policy_dir):
    file = policy_dir / "best.safetensors"
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= int(rng.integers(1, 256))
        file.write_bytes(damaged)
        load_refused(policy_dir)


def test_other_weights_are_refused_whoever_sums_them_up(policy_dir):
    file = policy_dir / "best.safetensors"
    content = file.read_bytes()
    weights, name = safetensors.torch.load(content), "body.0.weight"
    for wrong in (
        {},
        {k: v for k, v in weights.items() if k != name},
        {**weights, "more": torch.zeros(1)},
        {**weights, name: weights[name][:, :-1].contiguous()},
        {**weights, name: weights[name].T.contiguous()},
        {**weights, name: torch.full_like(weights[name], float("nan"))},
        {**weights, name: weights[name].bfloat16()},
        {("other" if k == name else k): v for k, v in weights.items()},
    ):
        if all(weight.dtype == torch.float32 for weight in wrong.values()):
            file.write_bytes(sealed_policy(description_of(content), wrong))
            load_refused(policy_dir)
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        file.write_bytes(safetensors.torch.save(wrong, json.loads(header)["__metadata__"]))
        assert "a policy is not as it was written" in load_refused(policy_dir)


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_pickles_are_not_executed(policy_dir, monkeypatch):
    monkeypatch.chdir(policy_dir)
    (policy_dir / "best.safetensors").write_bytes(pickle.dumps(Hostile()))
    load_refused(policy_dir)
    torch.save(Hostile(), policy_dir / "best.safetensors")
    load_refused(policy_dir)
    assert not Path("executed").exists()


def obs_of(shape):
    return {"obs": [{"name": "obs", "shape": shape, "dtype": "float32"}]}


@pytest.mark.parametrize(
    "change",
    [
        obs_of([1 << 40]),
        obs_of([1 << 20] * 4),  # 2**80, which wraps around to 0 in 64 bits
        obs_of([1 << 20, 1 << 20]),
        obs_of([0]),
        obs_of([-4]),
        obs_of([float("inf")]),
        obs_of(4),
        obs_of(None),
        obs_of([4.5]),
        {"hidden": [1 << 20, 1 << 20]},
        {"hidden": [1 << 14] * 1_000},
        {"hidden": [1] * 100_000},
        {"hidden": [0, 6]},
        {"hidden": []},
        {"action_shape": [2]},
        {"action_shape": [1 << 20] * 4},
        {"action_low": [0, 0]},
        {"action_low": [0, 0, float("nan")]},
        {"action_high": [1, 0.4, float("inf")]},
        {"action_high": [1, -0.5, 2]},
        {"action_low": "abc"},
        {"env_steps": "many"},
        {"env_steps": float("inf")},
        {"action_low": [0, 0, -(10**400)]},
        {"return_mean": 10**400},
        {"return_mean": []},
        {"format": 2},
        {"obs": []},
        {"obs": [{"name": "obs", "shape": [4], "dtype": "uint8"}]},
        {"obs": [{"name": "obs", "shape": [4], "dtype": "float32"}] * 2},
        {"run": "x"},
        {"algorithm": "a; b"},
        {"layer_norm": 1},
        {"more": 3},
    ],
    ids=lambda change: str(change)[:40],
)
def test_impossible_descriptions_are_refused_without_allocating(policy_dir, change, monkeypatch):
    file = policy_dir / "best.safetensors"
    content = file.read_bytes()
    file.write_bytes(sealed_policy(description_of(content) | change, safetensors.torch.load(content)))

    def actor(*sizes):
        raise AssertionError(f"a network of {sizes} would have been built")

    monkeypatch.setattr("t3d.policy.architectures.ARCHITECTURES", {"mlp": actor})
    text = load_refused(policy_dir)
    assert len(text) < 2_000


@pytest.mark.parametrize(
    "text", ["null", "[]", "3", '"text"', "{}", "[" * 10_000, "9" * 10_000, "\x00" * 50, "\xff\xfe", ""]
)
def test_what_is_no_description_is_refused(policy_dir, text):
    file = policy_dir / "best.safetensors"
    tensors = safetensors.torch.load_file(file)
    for metadata in ({"t3d": text}, {"t3d": text, "more": "x"}, {"other": text}, None):
        file.write_bytes(safetensors.torch.save(tensors, metadata))
        assert "this is not a policy as t3d writes it now" in load_refused(policy_dir)
    header = text.encode("latin-1")
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    load_refused(policy_dir)


def test_a_missing_field_is_refused(policy_dir):
    file = policy_dir / "best.safetensors"
    content = file.read_bytes()
    fields = description_of(content)
    for name in fields:
        left = {k: v for k, v in fields.items() if k != name}
        file.write_bytes(sealed_policy(left, safetensors.torch.load(content)))
        assert name in load_refused(policy_dir)


def test_a_file_too_large_for_what_it_is_is_not_read(policy_dir):
    with (policy_dir / "best.safetensors").open("r+b") as file:
        file.truncate((1 << 30) + 1)  # sparse: takes no space
    assert "bytes of tensors" in load_refused(policy_dir)
