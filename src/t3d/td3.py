"""TD3, Twin Delayed DDPG: steps 2, 3 and 5 to 15. Steps 1 and 4, the replay memory, are in `replay.py`.

Fujimoto, van Hoof, Meger: Addressing Function Approximation Error in Actor-Critic Methods, ICML 2018.

Shapes: B transitions in a batch, S numbers in an observation, A in an action. Actions lie in [-1, 1].
Nothing here draws a random number: whoever calls `update` brings the noise.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name PyTorch's own texts use
from numpy.typing import NDArray
from torch import Tensor, nn

from t3d.config import TD3Config
from t3d.networks import Actor, Adam, Critic, Seeing, encoder_of
from t3d.replay import Batch
from t3d.spaces import Spaces


def smooth(action: Tensor, noise: Tensor, policy_noise: float, noise_clip: float) -> Tensor:
    """Add clipped noise to actions and clamp them to [-1, 1].

    Args:
        action: (B, A) in [-1, 1].
        noise: (B, A) standard normal: a draw of its own for every transition and every action dimension.
        policy_noise: its standard deviation.
        noise_clip: its bound.

    Returns:
        (B, A) in [-1, 1].

    Source:
        Fujimoto et al. 2018, section 5.3, equation 15.
    """
    return (action + (policy_noise * noise).clamp(-noise_clip, noise_clip)).clamp(-1, 1)


def bellman(reward: Tensor, terminated: Tensor, discount: Tensor, next_q: Tensor) -> Tensor:
    """Return r + discount * (1 - terminated) * Q', all (B,); the discount is gamma where s' is one step away.

    Source:
        Fujimoto et al. 2018, section 4.2, equation 10.
    """
    return reward + discount * (1 - terminated) * next_q


@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Move the target's weights by the share tau towards the online ones, in place.

    Source:
        Fujimoto et al. 2018, algorithm 1: target = tau * online + (1 - tau) * target.
    """
    for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
        slow.lerp_(fast, tau)


# What a caller may bring: NumPy's, or PyTorch's on any device.
Array = NDArray[np.float32] | Tensor


class UpdateInfo(NamedTuple):
    """What one update saw: numbers, or detached tensors () on the agent's device, so that nobody waits for them."""

    critic_loss: Tensor | float
    q1: Tensor | float  # mean over the batch
    q2: Tensor | float | None  # mean over the batch; None for a subclass without a second critic
    target_q: Tensor | float  # mean over the batch
    actor_loss: Tensor | float | None  # None where the actor rested
    td_error: Array | None = None  # (critics, B) target_q - Q(s, a) before the update, if it was asked for


class TD3:
    """The six networks, their two optimisers, and the update.

    Args:
        spaces: S and A.
        config: the algorithm's options.
        rng: the stream the networks' first weights are drawn from: actor, then Q1, then Q2.
        device: where the networks live.
    """

    # A subclass may play, or judge, in another way.
    actor_class: type[nn.Module] = Actor
    critic_class: type[nn.Module] = Critic
    # Whether its batches are drawn by how wrong the critics were.
    prioritized = False

    def __init__(
        self,
        spaces: Spaces,
        config: TD3Config,
        rng: np.random.Generator,
        device: str | torch.device = "cpu",
    ) -> None:
        self.spaces, self.config = spaces, config
        self.device = torch.device(device)
        self.updates = 0
        # Images have an encoder in front: whatever follows sees its features. Vectors are seen as they are.
        self.frame_encoder, sees = encoder_of(spaces, rng)
        self.frame_encoder.to(self.device)
        self.frame_encoder_target = copy.deepcopy(self.frame_encoder)
        # Step 2: an actor, and an actor target that starts as its copy.
        self.actor = self.actor_class(sees, config, rng).to(self.device)
        self.actor_target = copy.deepcopy(self.actor)
        # Step 3: two critics that start different from each other, and two critic targets that start as copies.
        self.critic: Any = self.critic_class(sees, config, rng).to(self.device)
        self.critic_target: Any = copy.deepcopy(self.critic)
        # fused: one call moves all weights of a network, by the same formula.
        self.actor_optimizer = Adam(self.actor.parameters(), lr=config.lr, fused=True)
        judging = [*self.frame_encoder.parameters(), *self.critic.parameters()]
        self.critic_optimizer = Adam(judging, lr=config.lr, fused=True)

    def update(
        self, batch: Batch[NDArray[np.float32]] | Batch[Tensor], noise: Array, td_error: bool = False
    ) -> UpdateInfo:
        """Learn from one batch: steps 5 to 15.

        Args:
            batch: B transitions, as arrays or tensors.
            noise: (B, A) standard normal; its scale and clip are step 6.
            td_error: say how wrong the critics were of each transition, for a memory that draws by it.

        Returns:
            What the update saw.

        Raises:
            ValueError: the shapes of batch and noise do not fit together.
        """
        check_shapes(batch, noise, self.spaces)
        on_device = Batch(*(torch.as_tensor(part, device=self.device) for part in batch))
        self.updates += 1
        seen = self.seen(on_device)
        target_q = self.target_q(seen, torch.as_tensor(noise, device=self.device))  # (B,)
        errors = self.td_error(on_device, target_q) if td_error else None
        critic_loss, q1, q2 = self.update_critic(seen, target_q)
        actor_loss = None
        if self.updates % self.config.policy_delay == 0:
            actor_loss = self.update_actor(self.without_encoder(seen))
            self.update_targets()
        return UpdateInfo(critic_loss, q1, q2, target_q.mean(), actor_loss, errors)

    def seen(self, batch: Batch[Tensor]) -> Batch[Tensor]:
        """Return a batch as actor and critics see it: s through the encoder, s' through the encoder target."""
        with torch.no_grad():
            next_obs = self.frame_encoder_target(batch.next_obs)
        return batch._replace(obs=self.frame_encoder(batch.obs), next_obs=next_obs)

    def without_encoder(self, seen: Batch[Tensor]) -> Batch[Tensor]:
        """Return a batch through which the encoder does not learn: the critics' loss alone moves it."""
        return seen._replace(obs=seen.obs.detach())

    @torch.no_grad()
    def target_q(self, batch: Batch[Tensor], noise: Tensor) -> Tensor:
        """Return what the critics should say of the batch, (B,): steps 5 to 9."""
        # Step 5: the actor target plays a' from s'.
        next_action = self.actor_target(batch.next_obs)  # (B, A)
        # Step 6: clipped Gaussian noise is added to a', which is clamped to the action range.
        next_action = smooth(next_action, noise, self.config.policy_noise, self.config.noise_clip)  # (B, A)
        # Step 7: the two critic targets value (s', a').
        next_q1, next_q2 = self.critic_target(batch.next_obs, next_action)  # (B,), (B,)
        # Step 8: keep the smaller of the two.
        next_q = torch.minimum(next_q1, next_q2)  # (B,)
        # Step 9: the Bellman target, detached from the graph by no_grad. Only a true end stops the bootstrap.
        return bellman(batch.reward, batch.terminated, batch.discount, next_q)  # (B,)

    def update_critic(self, batch: Batch[Tensor], target_q: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Move both critics towards target_q (B,): steps 10 to 12. Return the loss, the means of Q1 and Q2, all ()."""
        # Step 10: the two critics value (s, a).
        q1, q2 = self.critic(batch.obs, batch.action)  # (B,), (B,)
        # Step 11: the sum of their two mean squared errors.
        loss = F.mse_loss(q1, target_q) + F.mse_loss(q2, target_q)  # ()
        # Step 12: backpropagate, and let Adam move both critics.
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        return loss.detach(), q1.detach().mean(), q2.detach().mean()

    def update_actor(self, batch: Batch[Tensor]) -> Tensor:
        """Move the actor uphill on Q1: step 13. Return the loss (), detached."""
        # Step 13: gradient ascent on the mean of Q1(s, actor(s)); the critic is differentiated, not moved.
        loss: Tensor = -self.critic.q1(batch.obs, self.actor(batch.obs)).mean()  # ()
        self.actor_optimizer.zero_grad()
        loss.backward(inputs=list(self.actor.parameters()))
        self.actor_optimizer.step()
        return loss.detach()

    def update_targets(self) -> None:
        """Let the targets follow: steps 14 and 15."""
        # Step 14: the actor target follows the actor.
        polyak(self.actor_target, self.actor, self.config.tau)
        # Step 15: the critic target follows the critic, and with it what it sees through.
        polyak(self.critic_target, self.critic, self.config.tau)
        polyak(self.frame_encoder_target, self.frame_encoder, self.config.tau)

    @torch.no_grad()
    def td_error(self, batch: Batch[Tensor], target_q: Tensor) -> Tensor:
        """Return target_q - Q(s, a) of each critic, (critics, B)."""
        return target_q - torch.stack(tuple(self.critic_net()(batch.obs, batch.action)))

    @torch.no_grad()
    def act(self, obs: NDArray[np.float32], which: str = "current") -> NDArray[np.float32]:
        """Return the actions (N, A) of one of its policies, without noise, for obs (N, S)."""
        play = self.policies()[which]
        action: NDArray[np.float32] = play(torch.as_tensor(obs, device=self.device)).cpu().numpy()
        return action

    # What an agent is made of. A subclass adds its own networks and optimisers to what these return: checkpoints,
    # resuming and policies know of nothing else.

    def networks(self) -> dict[str, nn.Module]:
        """Return the modules that hold weights, by name."""
        networks = {
            "actor": self.actor,
            "actor_target": self.actor_target,
            "critic": self.critic,
            "critic_target": self.critic_target,
        }
        encoders = {"frame_encoder": self.frame_encoder, "frame_encoder_target": self.frame_encoder_target}
        return networks if self.spaces.view is None else networks | encoders

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the Adams that move these, by name."""
        return {"actor": self.actor_optimizer, "critic": self.critic_optimizer}

    def policy_net(self) -> nn.Module:
        """Return what plays, a module from obs (B, S) to actions (B, A) in [-1, 1]: what a policy's file holds."""
        return self.actor if self.spaces.view is None else Seeing(self.frame_encoder, self.actor)

    def policies(self) -> dict[str, nn.Module]:
        """Return everything that could be played in earnest, by name: evaluations play each, and keep the better."""
        return {"current": self.policy_net()}

    def critic_net(self) -> nn.Module:
        """Return what judges, a module from obs (B, S) and action (B, A) to each critic's values (B,)."""
        net: nn.Module = self.critic
        return net if self.spaces.view is None else Seeing(self.frame_encoder, net)

    def target_nets(self) -> tuple[nn.Module, nn.Module]:
        """Return what plays and what judges in step 9's target, as `policy_net` and `critic_net`."""
        if self.spaces.view is None:
            return self.actor_target, self.critic_target
        encoder = self.frame_encoder_target
        return Seeing(encoder, self.actor_target), Seeing(encoder, self.critic_target)

    def episode_ended(self, episode_return: float) -> bool:
        """Take note of how a training episode went; return whether the updates due may be made now."""
        return True

    def tensors(self) -> dict[str, Tensor]:
        """Return everything the agent has learned, by name: weights, targets and Adam's moments; not copies.

        A subclass that learns more than its networks' numbers adds it here: it is what a checkpoint holds.
        """
        names = {
            weight: f"{name}.{weight_name}"
            for name, network in self.networks().items()
            for weight_name, weight in itertools.chain(network.named_parameters(), network.named_buffers())
        }
        learned = {name: weight.detach() for weight, name in names.items()}
        for name, optimizer in self.optimizers().items():
            for weight in itertools.chain(*(group["params"] for group in optimizer.param_groups)):
                state = optimizer.state[weight]
                # What Adam itself begins with at its first step.
                state.setdefault("step", torch.zeros((), device=self.device))
                for moment in ("exp_avg", "exp_avg_sq"):
                    state.setdefault(moment, torch.zeros_like(weight))
                learned |= {f"{name}_adam.{names[weight]}.{part}": tensor for part, tensor in state.items()}
        return learned


def check_shapes(batch: Batch[Any], noise: Array, spaces: Spaces) -> None:
    """Refuse what would broadcast in silence: one row of noise for the whole batch, or Q against a (B, 1) reward.

    Raises:
        ValueError: a part of the batch, or the noise, has another shape than B, S and A ask for.
    """
    rows, obs_size, action_size = len(batch.reward), spaces.seen_size, spaces.action_size
    fits = (
        batch.obs.shape == batch.next_obs.shape == (rows, obs_size)
        and batch.action.shape == noise.shape == (rows, action_size)
        and batch.reward.shape == batch.terminated.shape == batch.discount.shape == (rows,)
    )
    if not fits:
        got = {name: tuple(part.shape) for name, part in batch._asdict().items()} | {"noise": tuple(noise.shape)}
        raise ValueError(
            f"batch and noise do not fit together: got {got}; expected obs and next_obs (B, {obs_size}), "
            f"action and noise (B, {action_size}), reward, terminated and discount (B,)"
        )
