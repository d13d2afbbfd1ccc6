"""Fused against eager, update by update, on one run's recorded batches: benchmarks/results/drift.json.

    python benchmarks/drift.py            some ten minutes

A run of HalfCheetah-v5 with its preset, from its first update on, is recorded: its batches and its noises. Then agents
that start with that run's first weights learn from them side by side. Two of the fused engine take over eager's numbers
before every update: what these differ by afterwards is an update's own rounding. The others go their own way, where
every update magnifies what was rounded differently; so how far the text strays from itself is shown beside it: from
float64 (*exact*), on another number of threads, and with each first weight a last bit away.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from t3d import presets
from t3d.config import TD3Config
from t3d.engines.choose import Engine
from t3d.engines.fused import Fused
from t3d.env_spec import EnvSpec
from t3d.machine import describe
from t3d.replay import Batch
from t3d.spaces import Spaces
from t3d.td3 import TD3, UpdateInfo
from t3d.training.randomness import Streams
from t3d.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results" / "drift.json"
ENV, RANDOM_STEPS, SEED, UPDATES = "HalfCheetah-v5", 1_000, 0, 1_000
SHOWN = (1, 10, 100, 1_000)
# What is compared with what. A number says the threads.
PAIRS = {
    "fused, float64, from equal weights": ("fused64, led", "exact"),
    "fused, from equal weights": ("fused, led", "eager 1"),
    "fused, float64, from exact": ("fused64", "exact"),
    "eager, float64, a last bit away at first, from exact": ("last bit64", "exact"),
    "eager 1 from exact": ("eager 1", "exact"),
    "fused 2 from exact": ("fused 2", "exact"),
    "fused 2 from eager 2": ("fused 2", "eager 2"),
    "eager 2 from eager 1": ("eager 2", "eager 1"),
    "eager 1, a last bit away at first, from eager 1": ("last bit", "eager 1"),
}
LED_BY = {"fused64, led": "exact", "fused, led": "eager 1"}


class Learning(NamedTuple):
    """An agent, what runs its updates, and on how many of PyTorch's threads."""

    agent: TD3
    engine: Engine
    threads: int


def record() -> tuple[Spaces, TD3Config, list[tuple[Any, Any]]]:
    """Return spaces and options of a run, and the batches and noises of its first updates."""
    options = {"random_steps": RANDOM_STEPS, "seed": SEED}
    trainer = Trainer(EnvSpec(ENV), presets.choose(EnvSpec(ENV), None).config.with_values(options))
    trainer.learner.drawing = None  # the plain path, which shows its batches; the other has their bits
    update, seen = trainer.learner.engine.update, []

    def recorded(batch: Any, noise: Any, td_error: bool = False) -> UpdateInfo:
        seen.append((Batch(*(part.copy() for part in batch)), noise.copy()))
        return update(batch, noise, td_error)

    trainer.learner.engine.update = recorded  # type: ignore[method-assign]
    while len(seen) < UPDATES:
        trainer.step()
    trainer.envs.close()
    return trainer.envs.spaces, trainer.config.td3, seen


def agents(spaces: Spaces, config: TD3Config) -> dict[str, Learning]:
    """Return all that learn, with the recorded run's first weights."""

    def agent(dtype: torch.dtype = torch.float32) -> TD3:
        made = TD3(spaces, config, Streams.from_seed(SEED).networks)
        for network in made.networks().values():
            network.to(dtype)
        return made

    def alone(made: TD3, threads: int = 1, *, astray: bool = False) -> Learning:
        weights = [weight for network in made.networks().values() for weight in network.parameters()]
        for weight in weights if astray else []:
            weight.data = torch.nextafter(weight.data, torch.full_like(weight.data, torch.inf))
        return Learning(made, made, threads)

    def fused(made: TD3, threads: int = 1) -> Learning:
        return Learning(made, Fused(made, threads), threads)

    wide = torch.float64
    return {
        "fused64, led": fused(agent(wide)),
        "fused, led": fused(agent()),
        "exact": alone(agent(wide)),
        "fused64": fused(agent(wide)),
        "last bit64": alone(agent(wide), astray=True),
        "eager 1": alone(agent()),
        "eager 2": alone(agent(), 2),
        "fused 2": fused(agent(), 2),
        "last bit": alone(agent(), astray=True),
    }


def weights(agent: TD3) -> torch.Tensor:
    """Return all online weights as one float64 vector."""
    parameters = [*agent.actor.parameters(), *agent.critic.parameters()]
    return torch.cat([p.detach().double().flatten() for p in parameters])


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the length of the difference over that of the other."""
    return float(torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other))


def of_losses(one: UpdateInfo, other: UpdateInfo) -> float:
    """Return the largest relative difference between what two updates saw."""
    pairs = [(float(a), float(b)) for a, b in zip(one[:5], other[:5], strict=True) if a is not None and b is not None]
    return max(abs(a - b) / abs(b) for a, b in pairs)


def drift(learning: dict[str, Learning], stream: list[tuple[Any, Any]]) -> dict[str, dict[str, float]]:
    """Return by pair how far weights are apart after some updates, the farthest of all, and that of the losses."""
    found: dict[str, dict[str, float]] = {name: {"largest": 0.0, "losses": 0.0} for name in PAIRS}
    for count, (batch, noise) in enumerate(stream, start=1):
        seen, now = {}, {}
        for name, leader in LED_BY.items():
            theirs = learning[leader].agent.tensors()
            for key, tensor in learning[name].agent.tensors().items():
                tensor.copy_(theirs[key])
        for name, (agent, engine, threads) in learning.items():
            torch.set_num_threads(threads)
            wide = next(agent.actor.parameters()).dtype == torch.float64
            parts = Batch(*(part.astype(np.float64) for part in batch)) if wide else batch
            seen[name] = engine.update(parts, noise.astype(np.float64) if wide else noise)
            now[name] = weights(agent)
        for name, (one, other) in PAIRS.items():
            apart = distance(now[one], now[other])
            found[name]["largest"] = max(found[name]["largest"], apart)
            found[name]["losses"] = max(found[name]["losses"], of_losses(seen[one], seen[other]))
            if count in SHOWN:
                found[name][str(count)] = apart
    return found


def main() -> None:
    """Record, measure and write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    spaces, config, stream = record()
    seen = {
        layer_norm: drift(agents(spaces, dataclasses.replace(config, layer_norm=layer_norm)), stream)
        for layer_norm in ("none", "critic")
    }
    told = {"env": ENV, "hidden": config.hidden, "batch_size": len(stream[0][1]), "updates": UPDATES, "seed": SEED}
    RESULTS.write_text(json.dumps({"machine": describe(), "of": told, "relative_distance": seen}, indent=1) + "\n")
    print(json.dumps(seen, indent=1))


if __name__ == "__main__":
    main()
