"""TD3's update in float64 NumPy, written from the paper's equations: no torch, no automatic differentiation.

The gradients are the chain rule by hand, Adam is Kingma and Ba's algorithm 1, and the order of things is
Fujimoto et al. 2018, algorithm 1.
"""

from dataclasses import dataclass, field

import numpy as np

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


@dataclass
class Net:
    """A perceptron. params is [W1, b1, W2, b2, ...] with W of shape (outputs, inputs); ReLU, or ELU, between."""

    params: list
    elu: bool = False

    def forward(self, x):
        """Return the output (B, out) and what each layer was given, which the gradient needs."""
        given = []
        layers = len(self.params) // 2
        for i in range(layers):
            given.append(x)
            x = x @ self.params[2 * i].T + self.params[2 * i + 1]
            if i < layers - 1:
                x = np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1 if self.elu else 0)
        return x, given

    def backward(self, given, slope):
        """Return d/d(params) and d/d(input), where slope (B, out) is d/d(output)."""
        gradients = [None] * len(self.params)
        for i in reversed(range(len(given))):
            gradients[2 * i] = slope.T @ given[i]
            gradients[2 * i + 1] = slope.sum(axis=0)
            slope = slope @ self.params[2 * i]
            if i > 0:  # through the ReLU: what the layer was given is 0 where the unit was off; e^x = ELU(x) + 1
                slope = slope * np.where(given[i] > 0, 1, given[i] + 1 if self.elu else 0)
        return gradients, slope

    def copy(self):
        return Net([p.copy() for p in self.params], self.elu)


@dataclass
class Adam:
    """Step downhill. One for each network: the algorithm treats every number on its own."""

    lr: float
    steps: int = 0
    mean: list = field(default_factory=list)
    square: list = field(default_factory=list)

    def step(self, net, gradients):
        if not self.steps:
            self.mean = [np.zeros_like(g) for g in gradients]
            self.square = [np.zeros_like(g) for g in gradients]
        self.steps += 1
        for p, g, m, v in zip(net.params, gradients, self.mean, self.square, strict=True):
            m[:] = BETA_1 * m + (1 - BETA_1) * g
            v[:] = BETA_2 * v + (1 - BETA_2) * g**2
            m_hat, v_hat = m / (1 - BETA_1**self.steps), v / (1 - BETA_2**self.steps)
            p -= self.lr * m_hat / (np.sqrt(v_hat) + EPSILON)


class Oracle:
    """Six networks and the update.

    Args:
        nets: actor, actor_target, q1, q2, q1_target, q2_target, each a Net.
        lr, tau, policy_noise, noise_clip, policy_delay: as in the paper.
    """

    def __init__(self, nets, *, lr, tau, policy_noise, noise_clip, policy_delay):
        self.nets = {name: net.copy() for name, net in nets.items()}
        self.adams = {name: Adam(lr) for name in ("actor", "q1", "q2")}
        self.tau = tau
        self.policy_noise, self.noise_clip, self.policy_delay = policy_noise, noise_clip, policy_delay
        self.updates = 0

    def value(self, name, obs, action):
        """Return Q (B,) and what backward needs."""
        q, given = self.nets[name].forward(np.hstack([obs, action]))
        return q[:, 0], given

    def target(self, next_obs, reward, terminated, discount, noise):
        """y = r + discount (1 - terminated) min over i of Q_i'(s', clamp(pi'(s') + clip(epsilon)))."""
        next_action = np.tanh(self.nets["actor_target"].forward(next_obs)[0])
        epsilon = np.clip(self.policy_noise * noise, -self.noise_clip, self.noise_clip)
        next_action = np.clip(next_action + epsilon, -1, 1)
        q1 = self.value("q1_target", next_obs, next_action)[0]
        q2 = self.value("q2_target", next_obs, next_action)[0]
        return reward + discount * (1 - terminated) * np.where(q1 < q2, q1, q2)

    def critic_gradients(self, name, obs, action, y):
        """Return mean((Q - y)^2) and its gradients: d/dQ is 2 (Q - y) / B."""
        q, given = self.value(name, obs, action)
        error = q - y
        gradients, _ = self.nets[name].backward(given, (2 * error / len(y))[:, None])
        return np.mean(error**2), gradients

    def actor_gradients(self, obs):
        """Return -mean(Q1(s, pi(s))) and its gradients: the chain through Q1's input, then tanh' = 1 - tanh^2."""
        before_tanh, given_actor = self.nets["actor"].forward(obs)
        action = np.tanh(before_tanh)
        q, given_q = self.value("q1", obs, action)
        _, by_input = self.nets["q1"].backward(given_q, np.full((len(obs), 1), -1 / len(obs)))
        by_action = by_input[:, obs.shape[1] :]
        gradients, _ = self.nets["actor"].backward(given_actor, by_action * (1 - action**2))
        return -np.mean(q), gradients

    def update(self, obs, next_obs, action, reward, terminated, discount, noise):
        """Learn from one batch. Return the critic loss and the actor loss (None where it rested)."""
        self.updates += 1
        y = self.target(next_obs, reward, terminated, discount, noise)
        loss_1, gradients_1 = self.critic_gradients("q1", obs, action, y)
        loss_2, gradients_2 = self.critic_gradients("q2", obs, action, y)
        self.adams["q1"].step(self.nets["q1"], gradients_1)
        self.adams["q2"].step(self.nets["q2"], gradients_2)
        actor_loss = None
        if self.updates % self.policy_delay == 0:
            actor_loss, gradients = self.actor_gradients(obs)
            self.adams["actor"].step(self.nets["actor"], gradients)
            for name in ("actor", "q1", "q2"):
                for slow, fast in zip(self.nets[f"{name}_target"].params, self.nets[name].params, strict=True):
                    slow[:] = self.tau * fast + (1 - self.tau) * slow
        return loss_1 + loss_2, actor_loss
