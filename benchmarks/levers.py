"""TD3 with cheap changes that are said to help, each by itself or several: the screen of docs/log.md.

    python benchmarks/levers.py HalfCheetah-v4 --levers lap copies --batch-size 128 --steps 100000 --out runs/levers

What the screen keeps moves into src/t3d; what it does not stays here, where it can be tried again. Run it again to go
on. Where no lever changes the update the engine is `fused`, which is faster than `eager`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor, nn

import t3d
from t3d.networks import Critic, mlp
from t3d.replay import NOTHING, STEP, TERMINATED, Replay
from t3d.spaces import Spaces
from t3d.td3 import TD3, Array, UpdateInfo, bellman, smooth
from t3d.training import trainer
from t3d.variants.td7 import COPY_EVERY, WORSE_THAN_ANY, copy_weights, huber

Lever = Literal["norm", "elu", "lap", "copies", "clamp", "nstep", "recency"]


class Lap(TD3):
    """Draw by error, with Huber's loss (Fujimoto et al. 2020)."""

    prioritized = True

    def update_critic(self, batch: t3d.Batch[Tensor], target_q: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Steps 10 to 12, with Huber's loss."""
        q1, q2 = self.critic(batch.obs, batch.action)  # (B,), (B,)
        loss = (huber(q1 - target_q) + huber(q2 - target_q)).mean()  # ()
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        return loss.detach(), q1.detach().mean(), q2.detach().mean()


class Copies(TD3):
    """Copy the targets every 250 updates in place of steps 14 and 15 (TD7)."""

    def update_targets(self) -> None:
        """Copy, now and then."""
        if self.updates % COPY_EVERY == 0:
            copy_weights(self.actor_target, self.actor)
            copy_weights(self.critic_target, self.critic)


class Clamp(TD3):
    """Hold step 8's value to the extremes of the targets up to the last round of 250 updates, at first 0 (TD7)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.extremes = torch.tensor([WORSE_THAN_ANY, -WORSE_THAN_ANY])
        self.clamp = torch.zeros(2)

    @torch.no_grad()
    def target_q(self, batch: t3d.Batch[Tensor], noise: Tensor) -> Tensor:
        """Steps 5 to 9, and the clamp."""
        next_action = self.actor_target(batch.next_obs)  # (B, A)
        next_action = smooth(next_action, noise, self.config.policy_noise, self.config.noise_clip)  # (B, A)
        next_q = torch.minimum(*self.critic_target(batch.next_obs, next_action)).clamp(*self.clamp.tolist())  # (B,)
        target_q = bellman(batch.reward, batch.terminated, batch.discount, next_q)  # (B,)
        self.extremes[0] = torch.minimum(self.extremes[0], target_q.min())
        self.extremes[1] = torch.maximum(self.extremes[1], target_q.max())
        return target_q

    def update(self, batch: Any, noise: Array, td_error: bool = False) -> UpdateInfo:
        """Update, and now and then let the clamp follow what was seen."""
        info = super().update(batch, noise, td_error)
        if self.updates % COPY_EVERY == 0:
            self.clamp.copy_(self.extremes)
        return info

    def tensors(self) -> dict[str, Tensor]:
        """Return what is learned: TD3's, the extremes seen and what targets are held to."""
        return super().tensors() | {"extremes": self.extremes, "clamp": self.clamp}


class EluCritic(Critic):
    """Judge with ELU for ReLU."""

    def __init__(self, spaces: Spaces, config: t3d.TD3Config, rng: np.random.Generator) -> None:
        nn.Module.__init__(self)
        inputs, norm = spaces.obs_size + spaces.action_size, config.layer_norm != "none"
        self.q1_body = mlp(inputs, config.hidden, 1, rng, norm, nn.ELU)
        self.q2_body = mlp(inputs, config.hidden, 1, rng, norm, nn.ELU)


class Elu(TD3):
    """Critics with ELU."""

    critic_class = EluCritic


class Memory(Replay):
    """A replay memory that draws what is new more often, or looks some steps ahead."""

    def __init__(self, *args: Any, steps: int, recent: bool) -> None:
        self.steps, self.recent = steps, recent
        super().__init__(*args)

    def draw(self, rng: np.random.Generator, batch_size: int) -> NDArray[np.intp]:
        """Draw with the weight max(0.9999 to the age, 0.1)."""
        if not self.recent:
            return super().draw(rng, batch_size)
        found: list[NDArray[np.intp]] = []
        while (missing := batch_size - sum(map(len, found))) > 0:
            slots = super().draw(rng, 2 * missing)
            weight = np.maximum(0.9999 ** self.age(slots), 0.1)
            found.append(slots[rng.random(len(slots)) < weight][:missing])
        return np.concatenate(found)

    def sample(self, index: NDArray[np.intp], gamma: float) -> t3d.Batch[NDArray[np.float32]]:
        """Gather transitions of up to so many steps: fewer where an episode ends, or the memory does."""
        batch = super().sample(index, gamma)
        env, position = np.divmod(index, self._ring)
        reward, discount = np.zeros(len(index)), np.ones(len(index))
        last, on = index.copy(), np.ones(len(index), bool)
        for ahead in range(self.steps):
            last = np.where(on, env * self._ring + (position + ahead) % self._length, last)
            reward += on * discount * self._reward[last]
            discount *= np.where(on, gamma, 1)
            behind = env * self._ring + (position + ahead + 1) % self._length
            on &= (self._ended[last] == STEP) & (self._ended[behind] != NOTHING)
        return batch._replace(
            reward=reward.astype(np.float32),
            discount=discount.astype(np.float32),
            next_obs=self._obs[last + 1],
            terminated=(self._ended[last] == TERMINATED).astype(np.float32),
        )


CLASSES: dict[str, type[TD3]] = {"clamp": Clamp, "lap": Lap, "copies": Copies, "elu": Elu}


def main(
    env: tyro.conf.Positional[str],
    out: str,
    levers: tuple[Lever, ...],
    steps: int = 100_000,
    seed: int = 100,
    threads: int = 1,
    batch_size: int = 128,
) -> None:
    """Train TD3 with levers in the folder OUT, or go on with the run that is there."""
    bases = tuple(made for name, made in CLASSES.items() if name in levers)
    algorithm = type("Levers", (*bases, TD3), {}) if bases else TD3
    # A memory is no part of an algorithm: the one that the trainer makes is put in its place.
    memory = partial(Memory, steps=3 if "nstep" in levers else 1, recent="recency" in levers)
    trainer.Replay = memory  # type: ignore[misc,assignment]
    run = t3d.train(
        env,
        algorithm=algorithm,
        out=out,
        resume="auto",
        video=False,
        quiet=True,
        steps=steps,
        seed=seed,
        threads=threads,
        batch_size=batch_size,
        layer_norm="critic" if "norm" in levers else "none",
    )
    assert run.last is not None
    print(f"return {run.last.return_mean:,.1f}")


if __name__ == "__main__":
    tyro.cli(main)
