"""TD3 with one critic instead of two: what the second one is for, seen by leaving it out.

    python examples/one_critic.py Hopper-v5 --steps 100000 --seed 0 --out runs/one-critic

Run it again to go on. Read it beside src/t3d/td3.py: steps 3, 7, 8 and 10 to 12 change, the others stand there. Actor
and critic begin with the weights that TD3's actor and first critic begin with.
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name PyTorch's own texts use
import tyro
from torch import Tensor

import t3d
from t3d.networks import Critic
from t3d.spaces import Spaces
from t3d.td3 import TD3, bellman, smooth


class OneOpinion(Critic):
    """Judge with the first of the two networks alone."""

    def __init__(self, spaces: Spaces, config: t3d.TD3Config, rng: np.random.Generator) -> None:
        super().__init__(spaces, config, rng)
        del self.q2_body

    def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor]:
        return (self.q1(obs, action),)  # (B,)


class OneCritic(TD3):
    """TD3 whose target is the word of one critic, not the smaller of two."""

    critic_class = OneOpinion

    @torch.no_grad()
    def target_q(self, batch: t3d.Batch[Tensor], noise: Tensor) -> Tensor:
        next_action = self.actor_target(batch.next_obs)  # (B, A)
        next_action = smooth(next_action, noise, self.config.policy_noise, self.config.noise_clip)  # (B, A)
        next_q = self.critic_target.q1(batch.next_obs, next_action)  # (B,): there is no smaller one
        return bellman(batch.reward, batch.terminated, batch.discount, next_q)  # (B,)

    def update_critic(self, batch: t3d.Batch[Tensor], target_q: Tensor) -> tuple[Tensor, Tensor, None]:
        q1 = self.critic.q1(batch.obs, batch.action)  # (B,)
        loss = F.mse_loss(q1, target_q)  # (): one error
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        return loss.detach(), q1.detach().mean(), None


def main(env: tyro.conf.Positional[str], out: str, steps: int = 100_000, seed: int = 0, threads: int = 1) -> None:
    """Train TD3 with one critic in the folder OUT, or go on with the run that is there."""
    run = t3d.train(
        env, algorithm=OneCritic, out=out, resume="auto", video=False, steps=steps, seed=seed, threads=threads
    )
    assert run.last is not None
    print(f"return {run.last.return_mean:,.1f}, report {run.report}")


if __name__ == "__main__":
    tyro.cli(main)
