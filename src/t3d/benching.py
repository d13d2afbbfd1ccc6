"""How fast t3d is on this machine: what `t3d bench` measures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.config import Config
from t3d.engines import Engine
from t3d.engines.floor import floor_ms
from t3d.replay import Batch, slot_dtype
from t3d.td3 import TD3
from t3d.training import Trainer

_WARM_UPDATES = 100
_PAIRS = 300
_WARM_STEPS = 500
_TIMED_STEPS = 3_000


class Timing(NamedTuple):
    """One engine's figures."""

    engine: str
    threads: int
    update_ms: float  # median over many spans of policy_delay updates, each divided by policy_delay
    update_ms_p10: float
    update_ms_p90: float
    over_floor: float  # update_ms / floor_ms
    train_steps_per_s: float | None  # env steps per second of the training loop after its warm-up
    env_us: float | None  # of which in envs.step, per env step
    around_us: float | None  # of which neither in envs.step nor in engine.update, per env step


class Bench(NamedTuple):
    """What was measured."""

    env: str
    obs_size: int
    action_size: int
    config: Config
    floor_ms: float
    replay_bytes_per_slot: int
    replay_full_bytes: int
    timings: list[Timing]


def bench(env: str, config: Config, engines: tuple[str, ...] = ("eager", "fused")) -> Bench:
    """Measure updates and training of each engine, one after the other.

    Args:
        env: which environment, as for `envs.make`.
        config: sizes, threads and everything else; its `engine` is replaced by each of `engines`.
        engines: their names.
    """
    config = config.with_values({"random_steps": max(config.batch_size, 1_000), "eval_every": 1 << 60})
    probe = Trainer(env, config.with_values({"engine": "eager"}))
    spaces = probe.envs.spaces
    probe.envs.close()
    sizes = (spaces.obs_size, spaces.action_size)
    floor = floor_ms(*sizes, config.td3.hidden, config.batch_size, probe.threads)
    timings = [_timing(env, config.with_values({"engine": name}), sizes, floor) for name in engines]
    per_slot = slot_dtype((spaces.obs_size,), spaces.action_size).itemsize
    return Bench(env, *sizes, config, floor, per_slot, probe.replay.full_bytes, timings)


def _timing(env: str, config: Config, sizes: tuple[int, int], floor: float) -> Timing:
    trainer = Trainer(env, config)
    spans = update_ms(trainer.engine, trainer.agent, sizes, config.batch_size)
    median = statistics.median(spans)
    p10, *_, p90 = statistics.quantiles(spans, n=10)
    return Timing(config.engine, trainer.threads, median, p10, p90, median / floor, *_training(Trainer(env, config)))


def update_ms(engine: Engine, agent: TD3, sizes: tuple[int, int], batch_size: int) -> list[float]:
    """Return the time of one update, in ms, many times over: spans of policy_delay updates, divided by it."""
    rng = np.random.default_rng(0)
    (obs_size, action_size), delay = sizes, agent.config.policy_delay

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32)

    batch = Batch(
        obs=normal(batch_size, obs_size),
        next_obs=normal(batch_size, obs_size),
        action=np.tanh(normal(batch_size, action_size)),
        reward=normal(batch_size),
        terminated=np.zeros(batch_size, np.float32),
    )
    noise = normal(batch_size, action_size)
    spans = []
    for span in range(_WARM_UPDATES + _PAIRS):
        began = time.perf_counter()
        for _ in range(delay):
            engine.update(batch, noise)
        if span >= _WARM_UPDATES:
            spans.append((time.perf_counter() - began) * 1e3 / delay)
    return spans


class _Clocked:
    """Stand in for an object of which one method is timed; everything else is the object's own."""

    def __init__(self, inner: Any, method: str) -> None:
        self._inner = inner
        self.seconds = 0.0
        setattr(self, method, self._timed(getattr(inner, method)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            began = time.perf_counter()
            answer = call(*args)
            self.seconds += time.perf_counter() - began
            return answer

        return timed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __len__(self) -> int:
        return len(self._inner)


def _training(trainer: Trainer) -> tuple[float, float, float]:
    """Return env steps per second, and per env step the µs in envs.step and those outside it and the update."""
    while trainer.env_steps < trainer.config.random_steps + _WARM_STEPS:
        trainer.step()
    trainer.losses()
    envs, engine = _Clocked(trainer.envs, "step"), _Clocked(trainer.engine, "update")
    trainer.envs, trainer.engine = envs, engine  # type: ignore[assignment]
    first, began = trainer.env_steps, time.perf_counter()
    while trainer.env_steps < first + _TIMED_STEPS:
        trainer.step()
    seconds, steps = time.perf_counter() - began, trainer.env_steps - first
    trainer.envs.close()
    return steps / seconds, envs.seconds / steps * 1e6, (seconds - envs.seconds - engine.seconds) / steps * 1e6
