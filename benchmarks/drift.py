"""How far float32 weights are from float64 ones after 500 equal updates, by engine: benchmarks/results/drift.json.

    python benchmarks/drift.py

Two engines in float32 round differently, and 500 updates magnify that. What counts is that the fused engine strays
from the exact numbers (eager in float64) no further than the text in float32 does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t3d.config import TD3Config
from t3d.engines.fused import Fused
from t3d.machine import describe
from t3d.replay import Batch
from t3d.spaces import Spaces
from t3d.td3 import TD3

RESULTS = Path(__file__).parent / "results" / "drift.json"
OBS, ACTIONS, BATCH, UPDATES = 17, 6, 64, 500
SHOWN = (1, 10, 100, 500)


def weights(agent: TD3) -> torch.Tensor:
    """Return all online weights as one float64 vector."""
    parameters = [*agent.actor.parameters(), *agent.critic.parameters()]
    return torch.cat([p.detach().double().flatten() for p in parameters])


def drift(layer_norm: Any) -> dict[str, dict[str, float]]:
    """Return by pair of engines, and number of updates, the relative distance of their weights."""
    config = TD3Config(hidden=(64, 64), layer_norm=layer_norm)
    spaces = Spaces.of_vectors(OBS, ACTIONS)
    agents = {name: TD3(spaces, config, np.random.default_rng(7)) for name in ("exact", "eager", "fused")}
    for network in agents["exact"].networks().values():
        network.double()
    engines = agents | {"fused": Fused(agents["fused"])}
    pairs = {"eager": ("eager", "exact"), "fused": ("fused", "exact"), "fused from eager": ("fused", "eager")}
    found: dict[str, dict[str, float]] = {name: {} for name in pairs}
    rng = np.random.default_rng(1)
    for update in range(1, UPDATES + 1):
        shapes = (BATCH, OBS), (BATCH, OBS), (BATCH, ACTIONS), (BATCH,)
        obs, next_obs, action, reward = (rng.standard_normal(shape, np.float32) for shape in shapes)
        discount = np.full(BATCH, 0.99, np.float32)
        batch = Batch(obs, next_obs, np.tanh(action), reward, (rng.random(BATCH) < 0.1).astype(np.float32), discount)
        noise = rng.standard_normal((BATCH, ACTIONS), np.float32)
        for name, engine in engines.items():
            exact = name == "exact"
            parts = Batch(*(part.astype(np.float64) for part in batch)) if exact else batch
            engine.update(parts, noise.astype(np.float64) if exact else noise)
        if update in SHOWN:
            for name, (one, other) in pairs.items():
                a, b = weights(agents[one]), weights(agents[other])
                found[name][str(update)] = float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))
    return found


def main() -> None:
    """Measure and write."""
    seen = {layer_norm: drift(layer_norm) for layer_norm in ("none", "critic")}
    RESULTS.write_text(json.dumps({"machine": describe(), "relative_distance": seen}, indent=1) + "\n")
    print(json.dumps(seen, indent=1))


if __name__ == "__main__":
    main()
