"""The whole of training on environments whose values are known, and what the trainer hands from one part to another."""

from pathlib import Path

import numpy as np
import probes
import pytest
import torch

from t3d.config import Config, TD3Config
from t3d.env_spec import EnvSpec
from t3d.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

GAMMA = probes.GAMMA


def spec(probe):
    return f"{Path(probes.__file__).resolve()}:{probe.__name__}"


def trainer(probe, steps=0, **options):
    """Return a trainer that has taken so many steps in a probe."""
    td3 = TD3Config(**{"hidden": (32, 32), "lr": 5e-3, "gamma": GAMMA, "tau": 0.05} | options.pop("td3", {}))
    config = Config(**{"random_steps": 100, "batch_size": 64, "buffer_size": 10_000} | options, td3=td3)
    made = Trainer(EnvSpec(spec(probe)), config)
    while made.env_steps < steps:
        made.step()
    return made


def values(made, obs, actions=(-0.9, 0.0, 0.9)):
    """Return what both critics say of one observation under several actions."""
    action = torch.tensor(actions).reshape(-1, 1)
    with torch.no_grad():
        q1, q2 = made.agent.critic(torch.full((len(action), 1), float(obs)), action)
    return torch.cat([q1, q2]).tolist()


def held(made):
    """Return every transition in the memory, as (obs, next_obs, action, reward, terminated)."""
    index = np.unique(made.replay.draw(np.random.default_rng(0), 100 * len(made.replay)))
    assert len(index) == len(made.replay)
    return list(zip(*made.replay.sample(index, 0.99)[:5], strict=True))


@pytest.mark.parametrize("n_envs", [1, 3])
def test_probe_1_a_constant_reward_is_the_value(n_envs):
    assert values(trainer(probes.ConstantReward, 300, n_envs=n_envs), 0) == pytest.approx([1] * 6, abs=0.1)


def test_probe_2_the_value_depends_on_the_observation():
    made = trainer(probes.RewardByObs, 350)
    assert values(made, -1) == pytest.approx([-1] * 6, abs=0.15)
    assert values(made, 1) == pytest.approx([1] * 6, abs=0.15)


def test_probe_3_a_reward_to_come_is_discounted():
    made = trainer(probes.DelayedReward, 400)
    assert values(made, 1) == pytest.approx([1] * 6, abs=0.05)
    assert values(made, -1) == pytest.approx([GAMMA] * 6, abs=0.05)


def test_probe_4_the_actor_finds_the_best_action_within_bounds_of_each_dimension():
    made = trainer(probes.RewardByAction, 600)
    spaces = made.envs.spaces
    action = spaces.to_env_units(made.agent.act(np.zeros((1, 1), np.float32)))
    width = np.array(spaces.action_high) - spaces.action_low
    assert np.abs((action[0] - probes.RewardByAction.BEST) / width).max() < 0.08


def test_probe_5_the_actor_answers_the_observation():
    made = trainer(probes.RewardByObsAndAction, 700)
    assert made.agent.act(np.array([[-1], [1]], np.float32))[:, 0].tolist() == pytest.approx([-0.5, 0.5], abs=0.12)


SHORT = 1 / (1 - GAMMA * (1 - 1 / probes.EPISODE_STEPS))


@pytest.mark.parametrize(
    ("probe", "value"),
    [
        (probes.EndlessButTruncated, 1 / (1 - GAMMA)),
        (probes.Terminated, SHORT),
        (probes.TerminatedOnTheTimeLimit, SHORT),
    ],
)
def test_a_time_limit_is_no_end_and_an_end_is_one(probe, value):
    made = trainer(probe, 500, td3={"tau": 0.2})
    assert np.mean(values(made, 0)) == pytest.approx(value, rel=0.15)
    ended = [bool(terminated) for *_, terminated in held(made)]
    assert sum(ended) == (0 if probe is probes.EndlessButTruncated else 500 // probes.EPISODE_STEPS)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_only_true_transitions_are_stored_none_from_one_episode_into_the_next(n_envs):
    made = trainer(probes.Counting, 90, n_envs=n_envs)
    transitions = held(made)
    assert len(transitions) == 90
    for obs, next_obs, _, reward, terminated in transitions:
        assert next_obs == pytest.approx(obs + 1, abs=1e-5)  # also at the end: no reset observation, no dummy step
        assert reward == 1
        assert terminated == (obs.min() >= 2)
    assert sum(terminated for *_, terminated in transitions) == 30


def test_actions_are_stored_as_they_were_played_in_units_of_one():
    made = trainer(probes.RewardByAction, 130, random_steps=100)
    played = np.array([action for _, _, action, *_ in held(made)])
    rewards = np.array([reward for *_, reward, _ in held(made)])
    assert np.abs(played).max() <= 1
    spaces = made.envs.spaces
    scaled = (spaces.to_env_units(played) - probes.RewardByAction.BEST) / (1, 6)
    assert rewards == pytest.approx(1 - 4 * np.square(scaled).sum(axis=1), abs=1e-5)


def updates_of(made, monkeypatch, steps):
    """Step on, and return the (batch, noise) of every update made meanwhile."""
    seen, update = [], made.learner.engine.update
    made.learner.drawing = None  # the plain path, which shows its batches; the other gives its bits
    monkeypatch.setattr(
        made.learner.engine, "update", lambda batch, noise, _: seen.append((batch, noise)) or update(batch, noise)
    )
    for _ in range(steps):
        made.step()
    return seen


def test_every_update_gets_noise_of_its_own_for_each_transition_and_dimension(monkeypatch):
    made = trainer(probes.RewardByAction, 100)
    noises = [noise for _, noise in updates_of(made, monkeypatch, steps=30)]
    assert {noise.shape for noise in noises} == {(64, 2)}
    assert {noise.dtype for noise in noises} == {np.dtype(np.float32)}
    every = np.concatenate(noises).ravel()
    assert len(np.unique(every)) > 0.99 * every.size
    assert every.mean() == pytest.approx(0, abs=0.06)
    assert every.std() == pytest.approx(1, abs=0.04)  # standard normal: its scale is step 6's business


def test_every_environment_and_dimension_has_exploration_noise_of_its_own(monkeypatch):
    made = trainer(probes.RewardByAction, random_steps=0, n_envs=3, exploration_noise=0.1, updates_per_step=0)
    monkeypatch.setattr(made.learner.engine, "act", lambda obs: np.zeros((3, 2), np.float32))
    for _ in range(400):
        made.step()
    noise = np.array([action for _, _, action, *_ in held(made)])
    assert len(np.unique(noise)) > 0.99 * noise.size
    assert noise.std(axis=0) == pytest.approx([0.1, 0.1], rel=0.1)
    assert noise.mean(axis=0) == pytest.approx([0, 0], abs=0.01)


def test_noisy_actions_are_clipped_to_the_range(monkeypatch):
    made = trainer(probes.RewardByAction, random_steps=0, exploration_noise=5.0, updates_per_step=0)
    monkeypatch.setattr(made.learner.engine, "act", lambda obs: np.float32([[1, -1]]))
    for _ in range(50):
        made.step()
    assert np.abs([action for _, _, action, *_ in held(made)]).max() == 1


def test_the_warm_up_is_uniform_over_the_whole_range_and_makes_no_update():
    made = trainer(probes.RewardByAction, 999, random_steps=1000, n_envs=3)
    actions = np.array([action for _, _, action, *_ in held(made)])
    assert made.agent.updates == 0
    histogram, _ = np.histogram(actions, bins=8, range=(-1, 1))
    assert histogram.sum() == actions.size == 2 * 999
    assert np.abs(histogram / (actions.size / 8) - 1).max() < 0.2
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.1


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize(("per_step", "updates"), [(0.5, 15), (1, 30), (2, 60)])
def test_updates_per_step_holds_whatever_n_envs_is(n_envs, per_step, updates):
    made = trainer(probes.ConstantReward, 60, random_steps=30, n_envs=n_envs, updates_per_step=per_step, batch_size=4)
    assert made.env_steps == 60
    assert made.agent.updates == updates
