"""TD7's update in float64 NumPy, written from the equations: no torch, no automatic differentiation.

Fujimoto et al. 2023, equations 1 to 8 and appendix A and B; losses and priorities from Fujimoto et al. 2020 (LAP).
"""

import numpy as np
from oracle import Adam

COPY_EVERY = 12  # 250 in the paper


def norm(x):
    """Return x / mean |x| over the last axis, and what its gradient needs."""
    size = np.maximum(np.abs(x).mean(axis=1, keepdims=True), 1e-8)
    return x / size, (x, size)


def norm_slope(kept, slope):
    """d/dx of x / m(x): slope / m - (slope . x) / m^2 * sign(x) / n."""
    x, size = kept
    return slope / size - (slope * x).sum(axis=1, keepdims=True) / size**2 * np.sign(x) / x.shape[1]


class Together:
    """Networks that one Adam moves: their numbers in one list."""

    def __init__(self, *nets):
        self.params = [p for net in nets for p in net.params]


class OracleTD7:
    """All networks and the update.

    Args:
        nets: Net by name. zs, zsa: the encoder; each with .fixed and .target behind it: the two that stand still.
            actor, q1, q2: what follows on .first, a layer of its own; those with .target behind it.
        climb: mean, or q1.
        pre_tanh_weight: weight of the mean square of what stands before tanh, in the actor's loss.
    """

    def __init__(self, nets, *, lr, policy_noise, noise_clip, policy_delay, climb, pre_tanh_weight):
        self.nets = {name: net.copy() for name, net in nets.items()}
        self.adams = {name: Adam(lr) for name in ("encoder", "actor", "critic")}
        self.policy_noise, self.noise_clip, self.policy_delay, self.climb = (
            policy_noise,
            noise_clip,
            policy_delay,
            climb,
        )
        self.pre_tanh_weight = pre_tanh_weight
        self.least, self.most = np.inf, -np.inf
        self.clamp = (0.0, 0.0)
        self.updates = 0

    def zs(self, which, obs):
        x, given = self.nets[f"zs{which}"].forward(obs)
        scaled, kept = norm(x)
        return scaled, (given, kept)

    def zsa(self, which, zs, action):
        return self.nets[f"zsa{which}"].forward(np.hstack([zs, action]))

    def play(self, which, obs, zs):
        x, first = self.nets[f"actor.first{which}"].forward(obs)
        scaled, kept = norm(x)
        before_tanh, given = self.nets[f"actor{which}"].forward(np.hstack([scaled, zs]))
        return np.tanh(before_tanh), (first, kept, given, before_tanh)

    def value(self, name, which, obs, action, zsa, zs):
        x, first = self.nets[f"{name}.first{which}"].forward(np.hstack([obs, action]))
        scaled, kept = norm(x)
        q, given = self.nets[f"{name}{which}"].forward(np.hstack([scaled, zsa, zs]))
        return q[:, 0], (first, kept, given)

    def value_back(self, name, kept, slope):
        """Return the gradients of a critic, and d/d(obs, action) and d/d(zsa)."""
        first, scaled, given = kept
        of_body, by_input = self.nets[name].backward(given, slope[:, None])
        width = self.nets[f"{name}.first"].params[1].size
        of_first, by_obs_action = self.nets[f"{name}.first"].backward(first, norm_slope(scaled, by_input[:, :width]))
        size = (by_input.shape[1] - width) // 2
        return [*of_first, *of_body], by_obs_action, by_input[:, width : width + size]

    def encoder_step(self, obs, next_obs, action):
        """Descend mean (zsa(zs(s), a) - zs(s'))^2, zs(s') a constant."""
        aim, _ = self.zs("", next_obs)
        zs, (given, kept) = self.zs("", obs)
        zsa, given_action = self.zsa("", zs, action)
        of_action, by_input = self.nets["zsa"].backward(given_action, 2 * (zsa - aim) / aim.size)
        of_state, _ = self.nets["zs"].backward(given, norm_slope(kept, by_input[:, : zs.shape[1]]))
        self.adams["encoder"].step(Together(self.nets["zs"], self.nets["zsa"]), [*of_state, *of_action])

    def target(self, next_obs, reward, terminated, discount, noise):
        zs, _ = self.zs(".target", next_obs)
        action, _ = self.play(".target", next_obs, zs)
        epsilon = np.clip(self.policy_noise * noise, -self.noise_clip, self.noise_clip)
        action = np.clip(action + epsilon, -1, 1)
        zsa, _ = self.zsa(".target", zs, action)
        q = [self.value(name, ".target", next_obs, action, zsa, zs)[0] for name in ("q1", "q2")]
        return reward + discount * (1 - terminated) * np.clip(np.minimum(*q), *self.clamp)

    def critic_step(self, obs, action, y):
        """Descend mean over rows of the twins' Huber losses; return that, and y - Q (2, B) of before."""
        zs, _ = self.zs(".fixed", obs)
        zsa, _ = self.zsa(".fixed", zs, action)
        loss, gradients, errors = 0.0, [], []
        for name in ("q1", "q2"):
            q, kept = self.value(name, "", obs, action, zsa, zs)
            error = q - y
            small = np.abs(error) < 1
            loss += np.mean(np.where(small, error**2 / 2, np.abs(error)))
            gradients += self.value_back(name, kept, np.where(small, error, np.sign(error)) / len(y))[0]
            errors.append(-error)
        nets = [self.nets[name] for name in ("q1.first", "q1", "q2.first", "q2")]
        self.adams["critic"].step(Together(*nets), gradients)
        return loss, np.array(errors)

    def actor_step(self, obs):
        """Descend w mean x^2 - mean Q(s, tanh(x)): of both critics' mean, or of Q1."""
        zs, _ = self.zs(".fixed", obs)
        action, (first, scaled, given, x) = self.play("", obs, zs)
        zsa, given_zsa = self.zsa(".fixed", zs, action)
        names = ("q1", "q2") if self.climb == "mean" else ("q1",)
        loss, by_action = self.pre_tanh_weight * np.mean(x**2), 0.0
        for name in names:
            q, kept = self.value(name, "", obs, action, zsa, zs)
            share = 1 / len(names)
            loss -= share * np.mean(q)
            _, by_obs_action, by_zsa = self.value_back(name, kept, np.full(len(obs), -share / len(obs)))
            _, by_input = self.nets["zsa.fixed"].backward(given_zsa, by_zsa)
            by_action = by_action + by_obs_action[:, obs.shape[1] :] + by_input[:, zs.shape[1] :]
        by_x = by_action * (1 - action**2) + 2 * self.pre_tanh_weight * x / x.size
        of_body, by_input = self.nets["actor"].backward(given, by_x)
        width = self.nets["actor.first"].params[1].size
        of_first, _ = self.nets["actor.first"].backward(first, norm_slope(scaled, by_input[:, :width]))
        self.adams["actor"].step(Together(self.nets["actor.first"], self.nets["actor"]), [*of_first, *of_body])
        return loss

    def copy(self):
        for name in ("actor", "actor.first", "q1", "q1.first", "q2", "q2.first"):
            self.nets[f"{name}.target"] = self.nets[name].copy()
        for name in ("zs", "zsa"):
            self.nets[f"{name}.target"] = self.nets[f"{name}.fixed"].copy()
            self.nets[f"{name}.fixed"] = self.nets[name].copy()
        self.clamp = (self.least, self.most)

    def update(self, obs, next_obs, action, reward, terminated, discount, noise):
        """Learn from one batch. Return critic loss, actor loss (None where it rested), and y - Q (2, B)."""
        self.updates += 1
        self.encoder_step(obs, next_obs, action)
        y = self.target(next_obs, reward, terminated, discount, noise)
        self.least, self.most = min(self.least, y.min()), max(self.most, y.max())
        critic_loss, errors = self.critic_step(obs, action, y)
        actor_loss = self.actor_step(obs) if self.updates % self.policy_delay == 0 else None
        if self.updates % COPY_EVERY == 0:
            self.copy()
        return critic_loss, actor_loss, errors
