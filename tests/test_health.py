"""Every number of a training's health, by hand; and that looking changes nothing."""

import json
import math
from pathlib import Path

import numpy as np
import probes
import pytest
import torch
from torch.nn import functional

from t3d.config import Config, TD3Config
from t3d.diagnosis import health
from t3d.env_spec import EnvSpec
from t3d.replay import Batch, Replay
from t3d.spaces import Spaces
from t3d.td3 import TD3
from t3d.training.evaluation import Trajectory, evaluate
from t3d.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def spec(probe):
    return f"{Path(probes.__file__).resolve()}:{probe.__name__}"


def agent_of(obs_size=2, action_size=1, **options):
    config = TD3Config(**{"hidden": (4,), "gamma": 0.9, "policy_delay": 1} | options)
    return TD3(Spaces.of_vectors(obs_size, action_size), config, np.random.default_rng(0))


def batch_of(obs, action, reward=0.0, terminated=0.0, next_obs=None):
    obs, action = np.array(obs, np.float32), np.array(action, np.float32)
    reward, terminated = (np.broadcast_to(np.float32(part), len(obs)).copy() for part in (reward, terminated))
    next_obs, discount = obs if next_obs is None else np.array(next_obs, np.float32), np.full(len(obs), 0.9, np.float32)
    return Batch(obs, next_obs, action, reward, terminated, discount)


def random_batch(rows=32, obs_size=2, action_size=1, seed=0):
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.standard_normal((2, rows, obs_size))
    batch = batch_of(obs, rng.uniform(-1, 1, (rows, action_size)), rng.standard_normal(rows), next_obs=next_obs)
    return batch, rng.standard_normal((rows, action_size), np.float32)


@torch.no_grad()
def say(body, weights=0.0, bias=0.0):
    """Let a network with one hidden layer answer `bias + weights @ relu(its inputs)`."""
    first, last = body[0], body[-1]
    inputs = first.in_features
    for part in (first.weight, first.bias, last.weight, last.bias):
        part.zero_()
    first.weight[:inputs] = torch.eye(inputs)
    last.weight[:, :inputs] = torch.tensor(weights)
    last.bias.fill_(bias)


def look(agent, batch, noise=None, age=None):
    rows = len(batch.reward)
    noise = np.zeros(batch.action.shape, np.float32) if noise is None else np.array(noise, np.float32)
    return health.from_batch(agent, batch, noise, np.zeros(rows, int) if age is None else np.array(age))


# ---- From a batch, by hand


def test_the_data():
    agent = agent_of()
    found = look(
        agent,
        batch_of([[0, 10], [3, 10], [0, 10], [3, 14]], np.zeros((4, 1)), reward=[1, -3, 1, 1], terminated=[0, 1, 0, 0]),
        age=[1, 2, 3, 6],
    )
    assert found["obs_mean_max"] == pytest.approx(11)
    assert found["obs_std_max"] == pytest.approx(math.sqrt(3))
    assert found["obs_std_min"] == pytest.approx(1.5)
    assert found["obs_scale"] == pytest.approx(math.sqrt((300 + 196) / 4))
    assert found["obs_scale_at"] == 1
    assert (found["reward_mean"], found["reward_max"]) == (0, 3)
    assert found["reward_std"] == pytest.approx(math.sqrt(3))
    assert found["value_bound"] == pytest.approx(30)
    assert found["terminated_share"] == 0.25
    assert found["replay_age"] == 3
    assert look(agent_of(gamma=1.0), random_batch()[0])["value_bound"] is None


def test_saturated_actions_and_what_stands_before_the_tanh():
    agent = agent_of()
    say(agent.actor.body, weights=[[1.0, -1.0]])
    # tanh(2.6) = 0.98903 is not yet at the bound, tanh(2.7) = 0.99101 is.
    found = look(agent, batch_of([[2.6, 0], [2.7, 0], [0, 5.0], [0.1, 0]], np.zeros((4, 1))))
    assert found["saturated_share"] == 0.5
    assert found["pre_tanh"] == pytest.approx((2.6 + 2.7 + 5 + 0.1) / 4)


def test_dead_units_are_those_that_no_row_wakes():
    agent = agent_of()
    say(agent.actor.body, weights=[[1.0, 1.0]])
    say(agent.critic.q1_body, weights=[[1.0, 1.0, 1.0]])
    say(agent.critic.q2_body, weights=[[1.0, 1.0, 1.0]])
    with torch.no_grad():
        agent.critic.q2_body[0].bias[3] = 1
    # Of four units the actor's look at both observations, the critics' at the action, too.
    found = look(agent, batch_of([[1, -1], [-1, -1]], [[-0.5], [0.5]]))
    assert (found["dead_actor"], found["dead_q1"], found["dead_q2"]) == (0.75, 0.5, 0.25)


def test_the_worst_layer_counts():
    agent = agent_of(hidden=(6, 4))
    with torch.no_grad():
        agent.actor.body[0].bias.fill_(100)
        agent.actor.body[2].bias.fill_(-1e6)
    assert look(agent, random_batch()[0])["dead_actor"] == 1


def test_clipped_noise():
    agent = agent_of(policy_noise=0.2, noise_clip=0.5)
    found = look(agent, batch_of(np.zeros((4, 2)), np.zeros((4, 1))), noise=[[0], [2.4], [2.6], [-3]])
    assert found["noise_clipped_share"] == 0.5
    rng = np.random.default_rng(0)
    many = batch_of(np.zeros((50_000, 2)), np.zeros((50_000, 1)))
    share = look(agent, many, rng.standard_normal((50_000, 1)))["noise_clipped_share"]
    assert share == pytest.approx(math.erfc(2.5 / math.sqrt(2)), rel=0.1)  # 1.24 %: beyond 2.5 standard deviations


def test_the_share_of_targets_taken_from_the_first_critic():
    agent = agent_of()
    say(agent.critic_target.q1_body, bias=1.0)
    say(agent.critic_target.q2_body, weights=[[1.0, 0.0, 0.0]])
    next_obs = [[0, 0], [0.9, 0], [1.1, 0], [3, 0], [5, 0]]
    assert look(agent, batch_of(np.zeros((5, 2)), np.zeros((5, 1)), next_obs=next_obs))["q1_target_share"] == 0.6


def test_how_far_the_critics_disagree():
    agent = agent_of()
    say(agent.critic.q1_body, bias=3.0)
    say(agent.critic.q2_body, bias=-1.0)
    found = look(agent, random_batch()[0])
    assert found["q_scale"] == pytest.approx(2)
    assert found["disagreement"] == pytest.approx(2)  # never more, and only where their signs differ
    say(agent.critic.q2_body, bias=3.0)
    assert look(agent, random_batch()[0])["disagreement"] == 0
    for body in (agent.critic.q1_body, agent.critic.q2_body):
        say(body)
    assert look(agent, random_batch()[0])["disagreement"] is None


def test_gradients_are_those_of_the_losses():
    agent = agent_of(hidden=(8, 8))
    batch, noise = random_batch()
    obs, action = torch.from_numpy(batch.obs), torch.from_numpy(batch.action)
    target_q = agent.target_q(Batch(*map(torch.from_numpy, batch)), torch.from_numpy(noise))
    q1, q2 = agent.critic(obs, action)
    loss = functional.mse_loss(q1, target_q) + functional.mse_loss(q2, target_q)
    wanted = torch.autograd.grad(loss, list(agent.critic.parameters()))
    found = look(agent, batch, noise)
    assert found["critic_gradient"] == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in wanted)), rel=1e-5)


def weights(network):
    return torch.cat([weight.detach().reshape(-1).double() for weight in network.parameters()])


def test_moves_are_those_of_the_update_that_follows():
    agent = agent_of(hidden=(8, 8))
    for seed in range(5):
        agent.update(*random_batch(seed=seed))
    before = {name: weights(network) for name, network in agent.networks().items()}
    batch, noise = random_batch(seed=9)
    found = look(agent, batch, noise)
    agent.update(batch, noise)
    for name in ("actor", "critic"):
        moved = (weights(agent.networks()[name]) - before[name]).norm() / before[name].norm()
        assert found[f"{name}_move"] == pytest.approx(float(moved), rel=1e-6)
    gradients = [weight.grad for weight in agent.actor.parameters()]
    wanted = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    assert found["actor_gradient"] == pytest.approx(wanted, rel=1e-5)


def test_what_is_not_finite_is_no_number():
    agent = agent_of()
    say(agent.critic.q1_body, bias=math.inf)
    found = look(agent, random_batch()[0])
    assert (found["q_scale"], found["critic_gradient"]) == (None, None)
    assert found["pre_tanh"] is not None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_age_is_counted_in_env_steps(n_envs):
    replay = Replay(10 * n_envs, n_envs, Spaces.of_vectors(1, 1))
    never = np.zeros(n_envs, bool)
    replay.begin(np.zeros((n_envs, 1), np.float32), ~never)
    for step in range(23):  # the ring of 10 slots turns twice
        reward = np.full(n_envs, step, np.float32)
        action, obs = np.zeros((n_envs, 1), np.float32), np.zeros((n_envs, 1), np.float32)
        replay.add(action, reward, never, never, obs)
    index = replay.draw(np.random.default_rng(0), 500)
    ages = replay.age(index)
    assert (ages == n_envs * (23 - replay.sample(index, 0.99).reward)).all()
    assert set(ages) == {n_envs * age for age in range(1, 10)}


# ---- From an evaluation


def critics_say(agent, q1, q2):
    say(agent.critic.q1_body, bias=q1)
    say(agent.critic.q2_body, bias=q2)


def trajectory(rewards, terminated):
    steps = len(rewards)
    obs = np.zeros((steps, 2), np.float32)
    return Trajectory(obs, np.zeros((steps, 1), np.float32), np.array(rewards, np.float32), obs[0], terminated)


def test_a_terminated_episode_is_all_there_is():
    agent = agent_of(gamma=0.5)
    critics_say(agent, 5.0, 4.0)
    found = health.from_evaluation(agent, [trajectory([1, 2, 3], True)])
    obtained = ((1 + 1 + 0.75) + (2 + 1.5) + 3) / 3
    wanted = {
        "states": 3,
        "obtained": obtained,
        "q1_bias": 5 - obtained,
        "min_q_bias": 4 - obtained,
        "q1_bias_ratio": (5 - obtained) / obtained,
        "min_q_bias_ratio": (4 - obtained) / obtained,
    }
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("steps", [7, 12, 60])
@pytest.mark.parametrize("error", [0.0, 3.0, -2.0, 25.0])
def test_behind_a_time_limit_an_error_is_found_just_as_large_as_it_is(steps, error):
    agent = agent_of(gamma=0.9)
    critics_say(agent, 10 + error, 10 + error - 1)  # a reward of 1 for ever is worth 10
    found = health.from_evaluation(agent, [trajectory([1] * steps, False)])
    assert found["states"] == steps - 6  # 0.9 ** 7 is the first below a half
    assert found["obtained"] == pytest.approx(10)
    assert found["q1_bias"] == pytest.approx(error, abs=1e-5)
    assert found["min_q_bias"] == pytest.approx(error - 1, abs=1e-5)
    assert found["q1_bias_ratio"] == pytest.approx(error / 10, abs=1e-6)


def test_a_loss_promised_too_small_is_over_estimation_too():
    agent = agent_of(gamma=0.9)
    critics_say(agent, -4.0, -4.0)
    found = health.from_evaluation(agent, [trajectory([-1] * 60, False)])
    assert (found["q1_bias"], found["q1_bias_ratio"]) == (pytest.approx(6), pytest.approx(0.6))


def test_what_was_too_short_for_the_discount_is_not_judged():
    for gamma, steps in ((0.9, 6), (1.0, 1000)):
        found = health.from_evaluation(agent_of(gamma=gamma), [trajectory([1] * steps, False)])
        assert found.pop("states") == 0
        assert set(found.values()) == {None}
    both = [trajectory([1] * 6, False), trajectory([1] * 6, True)]
    assert health.from_evaluation(agent_of(gamma=1.0), both)["states"] == 6


def test_nothing_obtained_leaves_the_ratios_out():
    found = health.from_evaluation(agent_of(), [trajectory([0] * 60, True)])
    assert (found["obtained"], found["q1_bias_ratio"], found["min_q_bias_ratio"]) == (0, None, None)
    assert found["q1_bias"] is not None


def test_the_shares_that_the_docstring_names():
    counts = [sum(1 - 0.99**n >= health.PLAYED for n in range(1, steps + 1)) for steps in (1000, 200)]
    none_left = [sum(0.99**n < 0.01 for n in range(1, steps + 1)) for steps in (1000, 200)]
    assert (counts, none_left) == ([932, 132], [542, 0])


def played(made, episodes=3):
    trajectories = []
    seen = evaluate(made.agent.act, made.envs.name, episodes=episodes, seed=0, fresh=False, trajectories=trajectories)
    return seen, trajectories


def trained(probe, steps, **options):
    td3 = TD3Config(**{"hidden": (32, 32), "lr": 5e-3, "gamma": 0.5, "tau": 0.05} | options)
    made = Trainer(EnvSpec(spec(probe)), Config(random_steps=100, batch_size=64, buffer_size=10_000, td3=td3))
    while made.env_steps < steps:
        made.step()
    return made


@pytest.mark.parametrize(
    ("probe", "obtained"),
    [
        (probes.EndlessButTruncated, 2),  # 1 / (1 - 0.5), however short the time limit
        (probes.ConstantReward, 1),
        (probes.DelayedReward, 0.75),  # 0.5 and 1
    ],
)
def test_trained_critics_are_found_right_where_the_value_is_known(probe, obtained):
    made = trained(probe, 500)
    found = health.from_evaluation(made.agent, played(made)[1])
    assert found["obtained"] == pytest.approx(obtained)
    for name in ("q1_bias", "min_q_bias"):
        assert found[name] == pytest.approx(0, abs=0.1)


def test_an_evaluation_hands_out_what_it_played_and_plays_no_other_way():
    made = trained(probes.Counting, 110)
    seen, trajectories = played(made)
    assert seen == evaluate(made.agent.act, made.envs.name, episodes=3, seed=0, fresh=False)
    assert [len(one.reward) for one in trajectories] == seen.lengths == [3, 3, 3]
    assert [float(one.reward.sum()) for one in trajectories] == seen.returns
    for one in trajectories:
        assert (one.obs.shape, one.action.shape, one.final_obs.shape) == ((3, 4), (3, 1), (4,))
        assert np.diff([*one.obs, one.final_obs], axis=0) == pytest.approx(1, abs=1e-5)
        assert np.array_equal(one.action, np.concatenate([made.agent.act(obs[None]) for obs in one.obs]))
        assert one.terminated
    assert not any(one.terminated for one in played(trained(probes.EndlessButTruncated, 110))[1])


# ---- Looking changes nothing


def everything(agent):
    """Return every weight, moment, step count and gradient of an agent, as bytes."""
    moments = [
        value
        for optimizer in (agent.actor_optimizer, agent.critic_optimizer)
        for state in optimizer.state.values()
        for value in state.values()
    ]
    parameters = [weight for network in agent.networks().values() for weight in network.parameters()]
    gradients = [weight.grad for weight in parameters if weight.grad is not None]
    return [tensor.detach().numpy().tobytes() for tensor in [*parameters, *moments, *gradients]], agent.updates


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_looking_changes_no_weight_no_stream_and_nothing_global(engine):
    def train(looks):
        td3 = TD3Config(hidden=(16, 16))
        config = Config(random_steps=30, batch_size=16, buffer_size=500, engine=engine, threads=1, td3=td3)
        made = Trainer(EnvSpec(spec(probes.Counting)), config)
        while made.env_steps < 60:
            made.step()
            if looks:
                made.learner.health(made.env_steps)
                health.from_evaluation(made.agent, played(made, 1)[1])
        return made

    states = np.random.get_state()[1].tobytes(), torch.get_rng_state()  # noqa: NPY002
    watched, alone = train(True), train(False)
    assert np.random.get_state()[1].tobytes() == states[0]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[1])
    assert everything(watched.agent) == everything(alone.agent)
    for stream in ("networks", "random_actions", "exploration", "index", "target_noise"):
        ended = [getattr(made.streams, stream).bit_generator.state for made in (watched, alone)]
        assert ended[0] == ended[1]


def test_a_look_can_be_repeated_and_differs_from_step_to_step():
    made = trained(probes.Counting, 110)
    before = everything(made.agent)
    first = made.learner.health(made.env_steps)
    assert made.learner.health(made.env_steps) == first
    assert everything(made.agent) == before
    made.step()
    assert made.learner.health(made.env_steps)["replay_age"] != first["replay_age"]
