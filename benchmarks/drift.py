"""Fused against eager, update by update, on one run's recorded batches: benchmarks/results/drift.json.

    python benchmarks/drift.py            some ten minutes, of which most is eager in float64

A run of HalfCheetah-v5 with its preset, from its first update on, is recorded: its batches and its noises. Then agents
that start with that run's first weights learn from them side by side, each engine in float32 and in float64. In float32
two engines round differently, and updates magnify that; so what the text itself strays by is shown beside it: from
itself in float64 (*exact*), on another number of threads, and with each first weight a last bit away.
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
# What is compared with what; float32 but for the first row. A number says the threads.
PAIRS = {
    "fused 2, float64, from exact": ("fused64", "exact"),
    "eager 1 from exact": ("eager 1", "exact"),
    "fused 1 from exact": ("fused 1", "exact"),
    "fused 2 from exact": ("fused 2", "exact"),
    "fused 1 from eager 1": ("fused 1", "eager 1"),
    "fused 2 from eager 2": ("fused 2", "eager 2"),
    "eager 2 from eager 1": ("eager 2", "eager 1"),
    "eager 1, a last bit away at first, from eager 1": ("last bit", "eager 1"),
}


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

    found = {name: Learning(a := agent(), a, threads) for name, threads in (("eager 1", 1), ("eager 2", 2))}
    for threads in (1, 2):
        found[f"fused {threads}"] = Learning(a := agent(), Fused(a, threads), threads)
    found["exact"] = Learning(a := agent(torch.float64), a, 1)
    found["fused64"] = Learning(a := agent(torch.float64), Fused(a, 2), 2)
    found["last bit"] = Learning(a := agent(), a, 1)
    for network in a.networks().values():
        for weight in network.parameters():
            weight.data = torch.nextafter(weight.data, torch.full_like(weight.data, torch.inf))
    return found


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
    """Return by pair the distance of weights after some updates, the largest of all, and the largest of the losses."""
    found: dict[str, dict[str, float]] = {name: {"largest": 0.0, "losses": 0.0} for name in PAIRS}
    for count, (batch, noise) in enumerate(stream, start=1):
        seen, now = {}, {}
        for name, (agent, engine, threads) in learning.items():
            torch.set_num_threads(threads)
            wide = name in ("exact", "fused64")
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
