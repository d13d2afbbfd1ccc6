"""TD7: TD3 that learns embeddings (SALE), draws by its errors (LAP) and keeps the policy that did best.

Fujimoto, Chang, Smith, Gu, Precup, Meger: For SALE: State-Action Representation Learning for Deep Reinforcement
Learning, NeurIPS 2023. A difference to `td3.py`, whose steps keep their numbers; docs/td7.md shows the networks.

Three encoders: one learns; one that stands still is what actor and critics see; and one that stood before that is what
their targets see. Shapes as in `td3.py`; E numbers in an embedding.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name PyTorch's own texts use
from numpy.typing import NDArray
from torch import Tensor, nn

from t3d.config import TD3Config
from t3d.networks import Adam, Encoder, SaleActor, SaleCritic, SaleJudge, SalePolicy
from t3d.replay import Batch
from t3d.spaces import Spaces
from t3d.td3 import TD3, Array, UpdateInfo, bellman, check_shapes, smooth

COPY_EVERY = 250  # updates between two copies of the targets
# From this update on a policy is judged by more than one episode, and the bar it must reach is lowered once.
JUDGED_LONGER_FROM, EPISODES_THEN, LOWERED_BY = 750_000, 20, 0.1
WORSE_THAN_ANY = 1e30  # a return's size that nobody reaches: tensors of a checkpoint are finite


def huber(error: Tensor) -> Tensor:
    """Return error² / 2 below 1 and |error| from there on, row by row.

    Source:
        Fujimoto et al. 2020, "An Equivalence between Loss Functions and Non-Uniform Sampling", equation 12, alpha 1.
    """
    size = error.abs()
    return torch.where(size < 1, size.square() / 2, size)


@torch.no_grad()
def copy_weights(target: nn.Module, online: nn.Module) -> None:
    """Make the target's weights the online ones."""
    for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
        slow.copy_(fast)


class TD7(TD3):
    """TD3's six networks, which see embeddings too; the encoders; a policy kept; and the update.

    Args:
        spaces, config, rng, device: as for `TD3`; the encoder's weights are drawn after the critics'.
    """

    actor_class = SaleActor
    actor: SaleActor
    critic_class = SaleCritic
    prioritized = True

    def __init__(
        self, spaces: Spaces, config: TD3Config, rng: np.random.Generator, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__(spaces, config, rng, device)
        self.encoder = Encoder(spaces, config, rng).to(self.device)
        self.encoder_fixed = copy.deepcopy(self.encoder).requires_grad_(False)
        self.encoder_fixed_target = copy.deepcopy(self.encoder_fixed)
        self.encoder_optimizer = Adam(self.encoder.parameters(), lr=config.lr, fused=True)
        # What plays and what judges, with the encoder that each sees.
        self.player = SalePolicy(self.encoder_fixed.zs, self.actor)
        self.player_target = SalePolicy(self.encoder_fixed_target.zs, self.actor_target)
        self.judge = SaleJudge(self.encoder_fixed, self.critic)
        self.judge_target = SaleJudge(self.encoder_fixed_target, self.critic_target)
        # The least and the largest target so far, and what they were at the last copies: targets are clamped to that.
        self.extremes = torch.tensor([WORSE_THAN_ANY, -WORSE_THAN_ANY], device=self.device)
        self.clamp = torch.zeros(2, device=self.device)
        # The policy that did best in training, and what its worst episode gave; the worst one of the policy that plays
        # now, and how many it has played.
        self.checkpoint = copy.deepcopy(self.player).requires_grad_(False)
        self.bar = torch.tensor(-WORSE_THAN_ANY).double()
        self.worst = torch.tensor(WORSE_THAN_ANY).double()
        self.episodes = torch.zeros(())

    def update(
        self, batch: Batch[NDArray[np.float32]] | Batch[Tensor], noise: Array, td_error: bool = False
    ) -> UpdateInfo:
        """Learn from one batch, as `TD3.update`: the encoder learns before step 5, and the targets follow by copies."""
        check_shapes(batch, noise, self.spaces)
        on_device = Batch(*(torch.as_tensor(part, device=self.device) for part in batch))
        self.count_update()
        self.update_encoder(on_device)
        target_q = self.target_q(on_device, torch.as_tensor(noise, device=self.device))  # (B,)
        self.extremes[0] = torch.minimum(self.extremes[0], target_q.min())
        self.extremes[1] = torch.maximum(self.extremes[1], target_q.max())
        errors = self.td_error(on_device, target_q) if td_error else None
        critic_loss, q1, q2 = self.update_critic(on_device, target_q)
        actor_loss = self.update_actor(on_device) if self.updates % self.config.policy_delay == 0 else None
        if self.updates % COPY_EVERY == 0:
            self.update_targets()
        return UpdateInfo(critic_loss, q1, q2, target_q.mean(), actor_loss, errors)

    def count_update(self) -> None:
        """Count an update; before the first of those whose policy is judged longer, lower the bar."""
        if self.updates == JUDGED_LONGER_FROM:
            self.bar -= LOWERED_BY * self.bar.abs()
        self.updates += 1

    def update_encoder(self, batch: Batch[Tensor]) -> None:
        """Let the encoder predict the next embedding from this one and the action; between steps 4 and 5."""
        with torch.no_grad():
            next_zs = self.encoder.zs(batch.next_obs)  # (B, E)
        loss = F.mse_loss(self.encoder.zsa(self.encoder.zs(batch.obs), batch.action), next_zs)  # ()
        self.encoder_optimizer.zero_grad()
        loss.backward()
        self.encoder_optimizer.step()

    @torch.no_grad()
    def target_q(self, batch: Batch[Tensor], noise: Tensor) -> Tensor:
        """Return what the critics should say of the batch, (B,): steps 5 to 9; Q' is clamped to what was seen."""
        next_action = self.player_target(batch.next_obs)  # (B, A)
        next_action = smooth(next_action, noise, self.config.policy_noise, self.config.noise_clip)  # (B, A)
        next_q = torch.minimum(*self.judge_target(batch.next_obs, next_action))  # (B,)
        next_q = next_q.clamp(self.clamp[0], self.clamp[1])  # (B,)
        return bellman(batch.reward, batch.terminated, batch.discount, next_q)  # (B,)

    def update_critic(self, batch: Batch[Tensor], target_q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Move both critics towards target_q (B,): steps 10 to 12, with Huber's loss."""
        q1, q2 = self.judge(batch.obs, batch.action)  # (B,), (B,)
        loss = (huber(q1 - target_q) + huber(q2 - target_q)).mean()  # ()
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        return loss.detach(), q1.detach().mean(), q2.detach().mean()

    def update_actor(self, batch: Batch[Tensor]) -> Tensor:
        """Move the actor uphill on the mean of both critics, or on Q1: step 13. Return the loss (), detached.

        Where tanh passes no gradient, `pre_tanh_weight` leaves one, as in MR.Q (Fujimoto et al. 2025).
        """
        pre_tanh = self.actor.pre_tanh(batch.obs, self.encoder_fixed.zs(batch.obs))  # (B, A)
        q1, q2 = self.judge(batch.obs, torch.tanh(pre_tanh))  # (B,), (B,)
        climbed = q1 if self.config.climb == "q1" else (q1 + q2) / 2  # (B,)
        loss: Tensor = self.config.pre_tanh_weight * pre_tanh.square().mean() - climbed.mean()  # ()
        self.actor_optimizer.zero_grad()
        loss.backward(inputs=list(self.actor.parameters()))
        self.actor_optimizer.step()
        return loss.detach()

    def update_targets(self) -> None:
        """Make the targets what is online, and what is seen what was learned: steps 14 and 15."""
        copy_weights(self.actor_target, self.actor)
        copy_weights(self.critic_target, self.critic)
        copy_weights(self.encoder_fixed_target, self.encoder_fixed)
        copy_weights(self.encoder_fixed, self.encoder)
        self.clamp.copy_(self.extremes)

    def episode_ended(self, episode_return: float) -> bool:
        """Judge the policy that plays by its worst training episode; return whether it may learn on now.

        Worse than the checkpoint: it learns at once. As good in as many episodes as are asked for: it is the new
        checkpoint, and learns.
        """
        self.episodes += 1
        self.worst.clamp_(max=episode_return)
        asked_for = EPISODES_THEN if self.updates > JUDGED_LONGER_FROM else 1
        if self.worst >= self.bar:
            if self.episodes < asked_for:
                return False
            self.bar.copy_(self.worst)
            copy_weights(self.checkpoint, self.player)
        self.worst.fill_(WORSE_THAN_ANY)
        self.episodes.fill_(0)
        return True

    def networks(self) -> dict[str, nn.Module]:
        """Return the modules that hold weights, by name."""
        encoders = {
            "encoder": self.encoder,
            "encoder_fixed": self.encoder_fixed,
            "encoder_fixed_target": self.encoder_fixed_target,
        }
        return super().networks() | encoders | {"checkpoint": self.checkpoint}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the Adams that move these, by name."""
        return super().optimizers() | {"encoder": self.encoder_optimizer}

    def policy_net(self) -> nn.Module:
        """Return what plays now."""
        return self.player

    def policies(self) -> dict[str, nn.Module]:
        """Return what plays now, and the policy that did best in training."""
        return {"current": self.player, "checkpoint": self.checkpoint}

    def critic_net(self) -> nn.Module:
        """Return what judges."""
        return self.judge

    def target_nets(self) -> tuple[nn.Module, nn.Module]:
        """Return what plays and what judges in the target."""
        return self.player_target, self.judge_target

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that is learned: TD3's, the targets' extremes, and how the policies did."""
        names = ("extremes", "clamp", "bar", "worst", "episodes")
        return super().tensors() | {name: getattr(self, name) for name in names}
