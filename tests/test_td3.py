"""Steps 2, 3 and 5 to 15, each against numbers worked out by hand. Steps 1 and 4 are in test_replay.py."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from t3d.config import TD3Config
from t3d.networks import Actor, Critic
from t3d.replay import Batch
from t3d.spaces import Spaces
from t3d.td3 import TD3, bellman, polyak, smooth

LN3 = math.log(3)  # tanh(ln 3) = 4/5 and tanh(ln(3) / 2) = 1/2


def set_linear(layer, weight, bias):
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))


def hand_made_agent(**options):
    """One number in, one hidden unit, one action: small enough for a pencil.

    actor         tanh(relu(s)):               plays  4/5 at s = ln 3
    actor target  tanh(relu(s) / 4):           plays  1/2 at s' = 2 ln 3
    Q1            2 relu(a + 1)                Q2          relu(a + 1) + 1
    Q1 target     2 relu(a + 1)                Q2 target   4 relu(a + 1) - 3.6
    """
    config = TD3Config(**{"hidden": (1,), "lr": 0.1, "gamma": 0.5, "tau": 0.25, **options})
    agent = TD3(Spaces.of_vectors(1, 1), config, np.random.default_rng(0))
    for body, out in ((agent.actor.body, 1.0), (agent.actor_target.body, 0.25)):
        set_linear(body[0], [[1.0]], [0.0])
        set_linear(body[2], [[out]], [0.0])
    critics = {
        agent.critic.q1_body: (2.0, 0.0),
        agent.critic.q2_body: (1.0, 1.0),
        agent.critic_target.q1_body: (2.0, 0.0),
        agent.critic_target.q2_body: (4.0, -3.6),
    }
    for body, (weight, bias) in critics.items():
        set_linear(body[0], [[0.0, 1.0]], [1.0])
        set_linear(body[2], [[weight]], [bias])
    return agent


def hand_made_batch():
    """Three transitions from s = ln 3 to s' = 2 ln 3; the last one ended truly."""
    return Batch(
        obs=torch.full((3, 1), LN3),
        next_obs=torch.full((3, 1), 2 * LN3),
        action=torch.tensor([[0.0], [0.5], [-0.25]]),
        reward=torch.tensor([1.0, 2.0, 3.0]),
        terminated=torch.tensor([0.0, 0.0, 1.0]),
        discount=torch.full((3,), 0.5),
    )


HAND_MADE_NOISE = torch.tensor([[1.0], [4.0], [-10.0]])
# a' = 0.5 + (0.2, 0.5, -0.5) = 0.7, 1, 0;  Qt1 = 3.4, 4, 2;  Qt2 = 3.2, 4.4, 0.4;  the smaller: 3.2, 4, 0.4
# y = 1 + 0.5 * 3.2,  2 + 0.5 * 4,  3 + 0
HAND_MADE_TARGET = [2.6, 4.0, 3.0]


def near(expected):
    return pytest.approx(expected, rel=1e-5, abs=1e-6)


def numbers(tensor):
    return tensor.detach().flatten().tolist()


def weights(network):
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


def moved(network, before):
    return any(not torch.equal(weight, before[name]) for name, weight in network.named_parameters())


def random_agent(obs_size=3, action_size=2, seed=0, **options):
    config = TD3Config(**{"hidden": (8, 8), **options})
    return TD3(Spaces.of_vectors(obs_size, action_size), config, np.random.default_rng(seed))


def random_batch(size=5, obs_size=3, action_size=2, seed=1):
    rng = np.random.default_rng(seed)
    batch = Batch(
        obs=rng.normal(size=(size, obs_size)).astype(np.float32),
        next_obs=rng.normal(size=(size, obs_size)).astype(np.float32),
        action=rng.uniform(-1, 1, (size, action_size)).astype(np.float32),
        reward=rng.normal(size=size).astype(np.float32),
        terminated=(rng.uniform(size=size) < 0.3).astype(np.float32),
        discount=np.full(size, 0.99, np.float32),
    )
    return batch, rng.standard_normal((size, action_size), np.float32)


def test_steps_2_and_3_targets_start_as_equal_copies_that_share_no_memory():
    agent = random_agent()
    for online, target in ((agent.actor, agent.actor_target), (agent.critic, agent.critic_target)):
        pairs = list(zip(online.parameters(), target.parameters(), strict=True))
        assert pairs
        for ours, copied in pairs:
            assert torch.equal(ours, copied)
            with torch.no_grad():
                ours += 1
            assert not torch.equal(ours, copied)


def test_step_2_actor_by_hand():
    actor = Actor(Spaces.of_vectors(2, 2), TD3Config(hidden=(2,)), np.random.default_rng(0))
    set_linear(actor.body[0], [[1.0, 2.0], [-1.0, 0.0]], [0.5, 0.0])
    set_linear(actor.body[2], [[0.5, 9.0], [-0.1, 0.0]], [0.0, 0.2])
    # s = (1, 0): hidden relu(1.5, -1) = (1.5, 0); out (0.75, 0.05). s = (-2, 0): hidden (0, 2); out (18, 0.2).
    played = actor(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]))
    assert numbers(played) == near([math.tanh(0.75), math.tanh(0.05), 1.0, math.tanh(0.2)])


def test_step_2_actions_lie_between_minus_one_and_one_and_reach_both():
    obs = 100 * np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    played = random_agent().act(obs)
    assert played.shape == (1000, 2)
    assert np.abs(played).max() <= 1
    assert played.min() < -0.99
    assert played.max() > 0.99


def test_step_3_critic_by_hand():
    critic = Critic(Spaces.of_vectors(1, 2), TD3Config(hidden=(2,)), np.random.default_rng(0))
    set_linear(critic.q1_body[0], [[1.0, 2.0, 3.0], [-1.0, 0.0, 0.0]], [0.0, 1.0])
    set_linear(critic.q1_body[2], [[1.0, 10.0]], [0.5])
    set_linear(critic.q2_body[0], [[0.0, 1.0, -1.0], [0.0, 0.0, 0.0]], [0.0, 0.0])
    set_linear(critic.q2_body[2], [[2.0, 0.0]], [-1.0])
    obs, action = torch.tensor([[2.0], [0.5]]), torch.tensor([[0.5, -0.5], [1.0, 0.0]])
    # Row 1, (2, .5, -.5): q1 hidden relu(2 + 1 - 1.5, -2 + 1) = (1.5, 0), out 2; q2 hidden relu(1) = 1, out 1.
    # Row 2, (.5, 1, 0): q1 hidden relu(.5 + 2, -.5 + 1) = (2.5, .5), out 8; q2 hidden relu(1) = 1, out 1.
    q1, q2 = critic(obs, action)
    assert numbers(q1) == near([2.0, 8.0])
    assert numbers(q2) == near([1.0, 1.0])
    assert numbers(critic.q1(obs, action)) == near([2.0, 8.0])


def test_step_3_the_two_critics_start_different():
    critic = random_agent().critic
    for ours, other in zip(critic.q1_body.parameters(), critic.q2_body.parameters(), strict=True):
        assert not torch.equal(ours, other)


@pytest.mark.parametrize("hidden", [(64,), (400, 300), (32, 16, 8)])
def test_steps_2_and_3_first_weights_are_uniform_within_one_over_root_fan_in(hidden):
    agent = random_agent(obs_size=17, action_size=6, hidden=hidden)
    layers = [layer for net in agent.networks().values() for layer in net.modules() if isinstance(layer, nn.Linear)]
    assert len(layers) == 6 * (len(hidden) + 1)
    for layer in layers:
        bound = layer.in_features**-0.5
        assert layer.weight.abs().max() <= bound
        assert layer.bias.abs().max() <= bound
        if layer.weight.numel() > 100:
            # A uniform variable on +-b has mean 0 and standard deviation b / sqrt(3).
            assert abs(layer.weight.mean()) < 0.25 * bound
            assert float(layer.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)


def test_first_weights_follow_from_the_given_stream_alone():
    torch.manual_seed(1)
    one = random_agent(seed=7)
    torch.manual_seed(2)
    same, other = random_agent(seed=7), random_agent(seed=8)
    for name, network in one.networks().items():
        assert not moved(same.networks()[name], weights(network))
        assert moved(other.networks()[name], weights(network))


def global_random_state():
    numpys = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return torch.get_rng_state().tolist(), numpys["key"].tolist(), numpys["pos"], random.getstate()


def test_building_updating_and_acting_leave_the_global_generators_alone():
    before = global_random_state()
    agent = random_agent(policy_delay=1)
    agent.update(*random_batch())
    agent.act(np.zeros((1, 3), np.float32))
    assert global_random_state() == before


def test_step_6_by_hand_clip_before_clamp_and_clamp_to_the_action_range():
    action = torch.tensor([[0.5, -0.8], [0.9, -0.9], [0.0, 0.0], [0.1, 0.2]])
    noise = torch.tensor([[1.0, 10.0], [5.0, -5.0], [3.0, -0.5], [0.0, 1.5]])
    # 0.2 * noise = .2 2 / 1 -1 / .6 -.1 / 0 .3; clipped to +-.5: .2 .5 / .5 -.5 / .5 -.1 / 0 .3; added; clamped to +-1.
    expected = [0.7, -0.3, 1.0, -1.0, 0.5, -0.1, 0.1, 0.5]
    assert numbers(smooth(action, noise, 0.2, 0.5)) == near(expected)


def test_step_6_every_row_and_every_dimension_has_its_own_noise():
    noise = torch.tensor([[0.1, 0.2], [0.3, 0.4], [-0.5, -0.6]])
    assert numbers(smooth(torch.zeros(3, 2), noise, 1.0, 1.0)) == near(numbers(noise))
    # In the whole of steps 5 to 9: change one number of the noise, and one target alone changes.
    agent, (batch, drawn) = random_agent(), random_batch(size=4)
    batch = Batch(*(torch.as_tensor(part) for part in batch))._replace(terminated=torch.zeros(4))
    before = agent.target_q(batch, torch.as_tensor(drawn))
    for row in range(4):
        for dimension in range(2):
            other = torch.as_tensor(drawn).clone()
            other[row, dimension] = -other[row, dimension]
            changed = agent.target_q(batch, other) != before
            assert changed.tolist() == [i == row for i in range(4)]


def test_step_9_by_hand_only_termination_stops_the_bootstrap():
    reward, terminated = torch.tensor([1.0, 1.0, -2.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    next_q, discount = torch.tensor([10.0, 10.0, -4.0, 7.0]), torch.tensor([0.9, 0.9, 0.9, 0.9])
    assert numbers(bellman(reward, terminated, discount, next_q)) == near([10.0, 1.0, -5.6, 0.0])
    # Three steps ahead, one, none of it, and a true end.
    discount = torch.tensor([0.729, 0.9, 0.0, 0.9])
    assert numbers(bellman(reward, 0 * terminated, discount, next_q)) == near([8.29, 10.0, -2.0, 6.3])


def test_steps_5_to_9_by_hand():
    agent, batch = hand_made_agent(), hand_made_batch()
    next_action = agent.actor_target(batch.next_obs)  # step 5: the target plays, and it plays s'
    assert numbers(next_action) == near([0.5, 0.5, 0.5])
    smoothed = smooth(next_action, HAND_MADE_NOISE, 0.2, 0.5)
    assert numbers(smoothed) == near([0.7, 1.0, 0.0])
    next_q1, next_q2 = agent.critic_target(batch.next_obs, smoothed)  # step 7
    assert numbers(next_q1) == near([3.4, 4.0, 2.0])
    assert numbers(next_q2) == near([3.2, 4.4, 0.4])
    target = agent.target_q(batch, HAND_MADE_NOISE)  # step 8: min in each row, once Q2 and once Q1
    assert numbers(target) == near(HAND_MADE_TARGET)


def test_step_9_the_target_is_detached_and_no_gradient_reaches_a_target_network():
    agent = hand_made_agent(policy_delay=1)
    target = agent.target_q(hand_made_batch(), HAND_MADE_NOISE)
    assert not target.requires_grad
    assert target.grad_fn is None
    agent.update(hand_made_batch(), HAND_MADE_NOISE)
    for network in (agent.actor_target, agent.critic_target):
        assert all(weight.grad is None for weight in network.parameters())


def test_steps_10_to_12_by_hand():
    agent = hand_made_agent()
    q1, q2 = agent.critic(hand_made_batch().obs, hand_made_batch().action)
    loss, *means = agent.update_critic(hand_made_batch(), torch.tensor(HAND_MADE_TARGET))
    # Step 10, at a = 0, 0.5, -0.25:
    assert numbers(q1) == near([2.0, 3.0, 1.5])
    assert numbers(q2) == near([2.0, 2.5, 1.75])
    assert list(map(float, means)) == [near(6.5 / 3), near(6.25 / 3)]
    # Step 11: errors -.6 -1 -1.5 and -.6 -1.5 -1.25; squares .36 1 2.25 and .36 2.25 1.5625; means; their sum.
    assert float(loss) == near(3.61 / 3 + 4.1725 / 3)
    # Step 12: every gradient is negative (Q1 by a's weight: 2/3 * (-.6*0 - 1*.5 + 1.5*.25) * 2 = -1/6, and so on),
    # and Adam's first step is lr = 0.1 against the gradient's sign, whatever its size.
    body = agent.critic.q1_body
    assert float(body[0].weight.grad[0, 1]) == near(-1 / 6)
    for body, (weight, bias) in {agent.critic.q1_body: (2.1, 0.1), agent.critic.q2_body: (1.1, 1.1)}.items():
        assert numbers(body[0].weight) == near([0.1, 1.1])
        assert numbers(body[0].bias) == near([1.1])
        assert numbers(body[2].weight) == near([weight])
        assert numbers(body[2].bias) == near([bias])


def test_step_12_gradients_of_one_update_do_not_leak_into_the_next():
    agent, target = hand_made_agent(lr=1e-9), torch.tensor(HAND_MADE_TARGET)
    agent.update_critic(hand_made_batch(), target)
    first = numbers(agent.critic.q1_body[2].weight.grad)
    agent.update_critic(hand_made_batch(), target)
    assert numbers(agent.critic.q1_body[2].weight.grad) == near(first)


def test_step_13_by_hand_the_actor_climbs_q1_at_its_own_action():
    agent, batch = hand_made_agent(), hand_made_batch()
    # The actor plays 0.8 at s = ln 3: Q1 = 2 * 1.8 = 3.6 (Q2 = 2.8; at the batch's own actions Q1 means 2.17).
    assert float(agent.update_actor(batch)) == near(-3.6)
    # dQ1/dw = 2 * (1 - 0.8**2) * relu(s) > 0 for every weight: ascent adds lr = 0.1 to each.
    assert float(agent.actor.body[2].weight.grad) == near(-2 * 0.36 * LN3)
    assert numbers(agent.actor.body[0].weight) == near([1.1])
    assert numbers(agent.actor.body[0].bias) == near([0.1])
    assert numbers(agent.actor.body[2].weight) == near([1.1])
    assert numbers(agent.actor.body[2].bias) == near([0.1])


def test_step_13_follows_q1_alone():
    one, other = hand_made_agent(), hand_made_agent()
    set_linear(other.critic.q2_body[2], [[-50.0]], [-100.0])  # far below Q1, and falling where Q1 rises
    assert torch.equal(one.update_actor(hand_made_batch()), other.update_actor(hand_made_batch()))
    assert not moved(one.actor, weights(other.actor))


def test_step_13_neither_moves_the_critics_nor_touches_their_gradients():
    agent, (batch, noise) = random_agent(), random_batch()
    agent.update(batch, noise)
    before = weights(agent.critic)
    gradients = {name: weight.grad.clone() for name, weight in agent.critic.named_parameters()}
    agent.update_actor(Batch(*(torch.as_tensor(part) for part in batch)))
    assert not moved(agent.critic, before)
    for name, weight in agent.critic.named_parameters():
        assert torch.equal(weight.grad, gradients[name])
        assert weight.requires_grad


def test_step_13_does_not_look_at_the_stored_action():
    one, other, batch = hand_made_agent(), hand_made_agent(), hand_made_batch()
    one.update_actor(batch)
    other.update_actor(batch._replace(action=-batch.action + 0.3))
    assert not moved(one.actor, weights(other.actor))


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_steps_13_to_15_actor_and_both_targets_move_at_every_policy_delay_th_update_only(delay):
    agent, (batch, noise) = random_agent(policy_delay=delay), random_batch()
    for update in range(1, 7):
        before = {name: weights(network) for name, network in agent.networks().items()}
        info = agent.update(batch, noise)
        moves = {name: moved(network, before[name]) for name, network in agent.networks().items()}
        due = update % delay == 0
        assert moves == {"actor": due, "actor_target": due, "critic": True, "critic_target": due}
        assert (info.actor_loss is not None) == due
        assert agent.updates == update


def test_steps_14_and_15_polyak_by_hand():
    target, online = nn.Linear(2, 1), nn.Linear(2, 1)
    set_linear(target, [[1.0, -2.0]], [4.0])
    set_linear(online, [[3.0, 2.0]], [0.0])
    polyak(target, online, 0.25)
    assert numbers(target.weight) == near([1.5, -1.0])
    assert numbers(target.bias) == near([3.0])
    assert numbers(online.weight) == [3.0, 2.0]
    polyak(target, online, 1.0)
    assert numbers(target.weight) == [3.0, 2.0]


def test_one_whole_update_by_hand():
    agent = hand_made_agent(policy_delay=1)
    info = agent.update(hand_made_batch(), HAND_MADE_NOISE)
    assert float(info.critic_loss) == near(7.7825 / 3)
    assert float(info.q1) == near(6.5 / 3)
    assert float(info.q2) == near(6.25 / 3)
    assert float(info.target_q) == near(9.6 / 3)
    # The actor's loss is taken at the critic that has just moved: 2.1 relu(.1 ln 3 + 1.1 * .8 + 1.1) + .1.
    assert float(info.actor_loss) == near(-(2.1 * (0.1 * LN3 + 1.98) + 0.1))
    # Steps 14 and 15: a quarter of the way from the old target to what has just moved.
    assert numbers(agent.actor_target.body[2].weight) == near([0.75 * 0.25 + 0.25 * 1.1])
    assert numbers(agent.actor_target.body[0].bias) == near([0.25 * 0.1])
    assert numbers(agent.critic_target.q1_body[0].weight) == near([0.25 * 0.1, 0.75 + 0.25 * 1.1])
    assert numbers(agent.critic_target.q2_body[2].weight) == near([0.75 * 4 + 0.25 * 1.1])
    assert numbers(agent.critic_target.q2_body[2].bias) == near([0.75 * -3.6 + 0.25 * 1.1])


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("action_size", [1, 3])
def test_every_value_is_a_flat_row_of_the_batch(size, action_size):
    agent = random_agent(action_size=action_size, policy_delay=1)
    batch, noise = random_batch(size, action_size=action_size)
    tensors = Batch(*(torch.as_tensor(part) for part in batch))
    q1, q2 = agent.critic(tensors.obs, tensors.action)
    target = agent.target_q(tensors, torch.as_tensor(noise))
    seen = agent.update_critic(tensors, target)
    flat = (q1, q2, agent.critic.q1(tensors.obs, tensors.action), target)
    assert {tuple(value.shape) for value in flat} == {(size,)}
    assert agent.actor(tensors.obs).shape == (size, action_size)
    assert {tuple(value.shape) for value in seen} == {()}
    assert not any(value.requires_grad for value in seen)
    info = agent.update(batch, noise)
    assert {tuple(value.shape) for value in info[:5]} == {()}
    assert info.td_error is None
    assert not any(value.requires_grad for value in info[:5])


@pytest.mark.parametrize("field", ["reward", "terminated"])
def test_a_column_where_a_row_belongs_is_not_taken_in_silence(field):
    batch, noise = random_batch()
    column = batch._replace(**{field: getattr(batch, field)[:, None]})  # (B, 1): would broadcast to (B, B)
    with pytest.raises(ValueError, match="do not fit together"):
        random_agent().update(column, noise)


def test_arrays_and_tensors_teach_the_same_and_are_left_as_they_were():
    one, other, (batch, noise) = random_agent(), random_agent(), random_batch()
    kept = [part.copy() for part in (*batch, noise)]
    for _ in range(2):
        one.update(batch, noise)
        other.update(Batch(*(torch.tensor(part) for part in batch)), torch.tensor(noise))
    for name, network in one.networks().items():
        assert not moved(other.networks()[name], weights(network))
    for part, before in zip((*batch, noise), kept, strict=True):
        assert np.array_equal(part, before)


def test_tensors_are_all_that_the_agent_has_learned():
    one, other = random_agent(), random_agent()
    names = list(one.tensors())
    weights_and_targets = sum(len(list(network.parameters())) for network in one.networks().values())
    assert len(names) == weights_and_targets + 3 * weights_and_targets // 2  # step and two moments of the online ones
    for _ in range(3):
        one.update(*random_batch())
    for name, tensor in other.tensors().items():
        tensor.copy_(one.tensors()[name])
    other.updates = one.updates
    batch, noise = random_batch(seed=2)
    one.update(batch, noise)
    other.update(batch, noise)
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, other.tensors()[name]), name
