"""TD3 without one of its ideas, seven times: an option, a subclass or a wrapper, each as small as it can be."""

from typing import Any, NamedTuple

import gymnasium
import torch
from torch import Tensor

import t3d
from t3d.td3 import TD3, bellman, smooth


class NoTwin(TD3):
    """Step 8 without the minimum: the target is the word of the first critic."""

    @torch.no_grad()
    def target_q(self, batch: t3d.Batch[Tensor], noise: Tensor) -> Tensor:
        next_action = self.actor_target(batch.next_obs)  # (B, A)
        next_action = smooth(next_action, noise, self.config.policy_noise, self.config.noise_clip)  # (B, A)
        next_q, _ = self.critic_target(batch.next_obs, next_action)  # (B,)
        return bellman(batch.reward, batch.terminated, batch.discount, next_q)  # (B,)


class NoClamp(TD3):
    """Step 6 without its two clamps: the noise may be of any size, and the action may lie beyond its bounds."""

    @torch.no_grad()
    def target_q(self, batch: t3d.Batch[Tensor], noise: Tensor) -> Tensor:
        next_action = self.actor_target(batch.next_obs)  # (B, A)
        next_action = next_action + self.config.policy_noise * noise  # (B, A)
        next_q1, next_q2 = self.critic_target(batch.next_obs, next_action)  # (B,), (B,)
        next_q = torch.minimum(next_q1, next_q2)  # (B,)
        return bellman(batch.reward, batch.terminated, batch.discount, next_q)  # (B,)


class TimeLimitIsTheEnd(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Says that an episode truly ended where a time limit cut it: step 9 then stops the bootstrap there."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, False, info


class Idea(NamedTuple):
    """What is left out, how, and what should then suffer."""

    name: str  # as it reads after "TD3"
    steps: str  # of the fifteen
    suffers: str  # one of the measures of train.py
    why: str
    options: dict[str, Any]  # of t3d.train


IDEAS = {
    "td3": Idea("as it is", "", "", "", {}),
    "no-twin": Idea(
        "without the second opinion",
        "8",
        "bias",
        "an error of the one critic that is too high goes straight into its next targets",
        {"algorithm": NoTwin},
    ),
    "no-delay": Idea(
        "without the delay",
        "13 to 15",
        "spread",
        "actor and targets follow critics that have not settled",
        {"policy_delay": 1},
    ),
    "no-smoothing": Idea(
        "without smoothing",
        "6",
        "bias",
        "a narrow peak of the critic, which is usually an error, is not averaged with what lies around it",
        {"policy_noise": 0.0},
    ),
    "no-clamp": Idea(
        "without the clamps",
        "6",
        "loss",
        "the critics are asked about actions that nobody can play, and of which they have learned nothing",
        {"algorithm": NoClamp},
    ),
    "no-targets": Idea(
        "without target networks",
        "14, 15",
        "spread",
        "critics learn from targets that move with every update of theirs",
        {"tau": 1.0},
    ),
    "no-exploration": Idea(
        "without exploration noise",
        "1",
        "return",
        "after the random steps the memory holds what the actor does already, and nothing beside it",
        {"exploration_noise": 0.0},
    ),
    "time-limit-is-the-end": Idea(
        "with a time limit taken for the end",
        "9",
        "loss",
        "the same state is worth much or little by a clock that no observation shows",
        {"wrappers": ["ideas:TimeLimitIsTheEnd"]},
    ),
}
