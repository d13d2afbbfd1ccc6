"""The whole update, many times over, against a float64 NumPy oracle that knows nothing of torch."""

import numpy as np
import pytest
from oracle import Net, Oracle

from t3d.config import TD3Config
from t3d.replay import Batch
from t3d.spaces import Spaces
from t3d.td3 import TD3

HIDDEN = [(8,), (10, 6), (8, 8), (6, 12, 8), (16, 16), (8, 10, 8, 10)]


def nets_of(agent):
    bodies = {
        "actor": agent.actor.body,
        "actor_target": agent.actor_target.body,
        "q1": agent.critic.q1_body,
        "q2": agent.critic.q2_body,
        "q1_target": agent.critic_target.q1_body,
        "q2_target": agent.critic_target.q2_body,
    }
    return {name: Net([p.detach().numpy().copy() for p in body.parameters()]) for name, body in bodies.items()}


def random_pair(seed):
    """Return an agent in float64, its oracle, and a stream; spaces and options follow from the seed."""
    rng = np.random.default_rng(seed)
    options = {
        "lr": float(rng.uniform(1e-3, 1e-2)),
        "tau": float(rng.uniform(0.01, 0.5)),
        "policy_noise": float(rng.uniform(0.1, 0.6)),
        "noise_clip": float(rng.uniform(0.2, 0.8)),
        "policy_delay": 1 + seed % 3,
    }
    spaces = Spaces.of_vectors(int(rng.integers(1, 6)), int(rng.integers(1, 4)))
    agent = TD3(spaces, config=TD3Config(hidden=HIDDEN[seed], **options), rng=rng)
    for network in agent.networks().values():
        network.double()  # in place: the Adams keep the parameters they were given
    return agent, Oracle(nets_of(agent), **options), spaces, rng


def random_batch(rng, spaces, size):
    shape = (size, spaces.obs_size)
    batch = Batch(
        obs=rng.normal(size=shape),
        next_obs=rng.normal(size=shape),
        action=rng.uniform(-1, 1, (size, spaces.action_size)),
        reward=rng.normal(size=size),
        terminated=np.float64(rng.uniform(size=size) < 0.3),
        discount=rng.uniform(0.5, 1, size),
    )
    return batch, rng.standard_normal((size, spaces.action_size))


def largest_difference(agent, oracle):
    return {
        name: max(np.abs(p - q).max() for p, q in zip(net.params, oracle.nets[name].params, strict=True))
        for name, net in nets_of(agent).items()
    }


@pytest.mark.parametrize("seed", range(len(HIDDEN)))
def test_all_six_networks_are_where_the_equations_put_them(seed):
    agent, oracle, spaces, rng = random_pair(seed)
    started = nets_of(agent)
    for update in range(1, 11):
        batch, noise = random_batch(rng, spaces, size=int(rng.integers(1, 20)))
        info = agent.update(batch, noise)
        critic_loss, actor_loss = oracle.update(**batch._asdict(), noise=noise)
        assert float(info.critic_loss) == pytest.approx(critic_loss, abs=1e-10)
        assert (info.actor_loss is None) == (actor_loss is None)
        if actor_loss is not None:
            assert float(info.actor_loss) == pytest.approx(actor_loss, abs=1e-10)
        if update in (1, 2, 10):
            assert max(largest_difference(agent, oracle).values()) < 1e-10
    for name, net in nets_of(agent).items():
        assert any(not np.array_equal(p, q) for p, q in zip(net.params, started[name].params, strict=True))
        assert all(p.dtype == np.float64 for p in net.params)


def slope_between(function, numbers, at):
    """Return the central difference of function() by one of the numbers."""
    step, kept = 1e-6, numbers[at]
    numbers[at] = kept + step
    above = function()
    numbers[at] = kept - step
    below = function()
    numbers[at] = kept
    return (above - below) / (2 * step)


@pytest.mark.parametrize("seed", range(3))
def test_the_oracles_own_gradients_are_slopes(seed):
    _, oracle, spaces, rng = random_pair(seed)
    batch, noise = random_batch(rng, spaces, size=6)
    y = oracle.target(batch.next_obs, batch.reward, batch.terminated, batch.discount, noise)
    losses = {
        "q1": lambda: oracle.critic_gradients("q1", batch.obs, batch.action, y),
        "q2": lambda: oracle.critic_gradients("q2", batch.obs, batch.action, y),
        "actor": lambda: oracle.actor_gradients(batch.obs),
    }
    for name, loss in losses.items():
        for param, gradient in zip(oracle.nets[name].params, loss()[1], strict=True):
            for at in np.ndindex(param.shape):
                slope = slope_between(lambda loss=loss: loss()[0], param, at)
                assert gradient[at] == pytest.approx(slope, abs=1e-7)
