"""t3d trains, judges and ships continuous-control policies with TD3.

    import t3d
    run = t3d.train("HalfCheetah-v5", steps=50_000, seed=0)
    policy = t3d.load(run.path)
    action = policy(obs)

Names are looked up when they are first used, so that `t3d --help` need not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t3d.api import iterate, train
    from t3d.config import Config, TD3Config
    from t3d.errors import Failed, Refused, T3DError
    from t3d.networks import Actor, Critic
    from t3d.policy.policy import Policy, load
    from t3d.replay import Batch, Replay
    from t3d.reports.records import read
    from t3d.results import Run, Seeds
    from t3d.spaces import Spaces
    from t3d.td3 import TD3
    from t3d.training.evaluation import Evaluation, evaluate

__all__ = [
    "TD3",
    "Actor",
    "Batch",
    "Config",
    "Critic",
    "Evaluation",
    "Failed",
    "Policy",
    "Refused",
    "Replay",
    "Run",
    "Seeds",
    "Spaces",
    "T3DError",
    "TD3Config",
    "evaluate",
    "iterate",
    "load",
    "read",
    "train",
]

_HOME = {
    "Actor": "networks",
    "Batch": "replay",
    "Config": "config",
    "Critic": "networks",
    "Evaluation": "training.evaluation",
    "Failed": "errors",
    "Policy": "policy.policy",
    "Refused": "errors",
    "Replay": "replay",
    "Run": "results",
    "Seeds": "results",
    "Spaces": "spaces",
    "T3DError": "errors",
    "TD3": "td3",
    "TD3Config": "config",
    "evaluate": "training.evaluation",
    "iterate": "api",
    "load": "policy.policy",
    "read": "reports.records",
    "train": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 't3d' has no attribute {name!r}")
    return getattr(importlib.import_module(f"t3d.{_HOME[name]}"), name)
