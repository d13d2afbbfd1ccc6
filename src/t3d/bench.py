"""How fast t3d is on this machine: what `t3d bench` measures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from t3d.config import Config
from t3d.engines.choose import Engine, choose, choose_threads
from t3d.env_spec import EnvSpec
from t3d.environments.make import is_hardware, spaces_in
from t3d.errors import ConfigRefused
from t3d.machine import usable_cores
from t3d.replay import Batch, slot_dtype
from t3d.spaces import Spaces
from t3d.training.trainer import Trainer
from t3d.variants.contract import algorithm_of

_ROUNDS = 10
_SPAN_S = 0.3  # of each engine's updates in each round
_RANDOM_STEPS = 1_000
_WARM_STEPS = 500
_TIMED_STEPS = 3_000


class Loop(NamedTuple):
    """What the training loop did after its warm-up."""

    train_steps_per_s: float  # env steps per second
    env_us: float  # of which in envs.step, per env step
    around_us: float  # of which neither in envs.step nor in the engine's updates, per env step


class Timing(NamedTuple):
    """One engine's figures."""

    engine: str
    threads: int
    update_ms: float  # median over many spans of policy_delay updates, each divided by policy_delay
    update_ms_p10: float
    update_ms_p90: float
    loop: Loop | None  # None where sizes were given and no environment


class Bench(NamedTuple):
    """What was measured."""

    env: str | None  # its title
    spaces: Spaces
    config: Config
    replay_bytes_per_slot: int
    replay_full_bytes: int
    timings: list[Timing]


def bench(what: EnvSpec | Spaces, config: Config, engines: tuple[str, ...] = ()) -> Bench:
    """Measure updates, then training, of each engine; updates in turns, so that all meet the same machine.

    Args:
        what: an environment; or spaces alone, without training.
        config: sizes, threads and everything else; its `engine` is replaced by each of `engines`.
        engines: their names; all that can be, if none is named.

    Raises:
        Refused: the environment or the options make it impossible.
    """
    env = what.looked_at(config.view) if isinstance(what, EnvSpec) else None
    if env and (config.hardware or is_hardware(env)):
        raise ConfigRefused(
            "this environment is hardware, which is not moved for a measurement",
            got=env.title,
            expected="a simulation, or sizes",
            do="t3d bench --sizes OBS ACTION",
        )
    spaces = spaces_in(env) if env else what
    assert isinstance(spaces, Spaces)
    engines = engines or (("eager", "fused") if spaces.view is None else ("eager",))
    best = choose_threads(spaces, config, usable_cores())
    threads = best if config.threads == "auto" else config.threads
    torch.set_num_threads(threads)
    agents = [algorithm_of(config)(spaces, config.td3, np.random.default_rng(0)) for _ in engines]
    chosen = [choose(name, agent, threads) for name, agent in zip(engines, agents, strict=True)]
    batch, noise = _draw(spaces, config.batch_size)
    spans: list[list[float]] = [[] for _ in engines]
    for _ in range(_ROUNDS):
        for seen, one in zip(spans, chosen, strict=True):
            seen += _update_ms(one.engine, batch, noise, config.td3.policy_delay)
    timings = []
    for name, seen in zip(engines, spans, strict=True):
        median = statistics.median(seen)
        # inclusive: of few times the other method would tell one below the least, even below zero.
        p10, *_, p90 = statistics.quantiles(seen, n=10, method="inclusive")
        loop = _train(env, config.with_values({"engine": name})) if env else None
        timings.append(Timing(name, threads, median, p10, p90, loop))
    slot = slot_dtype(spaces).itemsize
    return Bench(env.title if env else None, spaces, config, slot, slot * config.buffer_size, timings)


def _draw(spaces: Spaces, batch_size: int) -> tuple[Batch[NDArray[np.float32]], NDArray[np.float32]]:
    rng, obs_size, action_size = np.random.default_rng(0), spaces.seen_size, spaces.action_size

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32)

    batch = Batch(
        obs=normal(batch_size, obs_size),
        next_obs=normal(batch_size, obs_size),
        action=np.tanh(normal(batch_size, action_size)),
        reward=normal(batch_size),
        terminated=np.zeros(batch_size, np.float32),
        discount=np.full(batch_size, 0.99, np.float32),
    )
    return batch, normal(batch_size, action_size)


def _update_ms(
    engine: Engine, batch: Batch[NDArray[np.float32]], noise: NDArray[np.float32], delay: int
) -> list[float]:
    """Return the ms of one update, many times over: spans of policy_delay updates, divided by it."""
    spans = []
    end = time.perf_counter() + _SPAN_S
    while (began := time.perf_counter()) < end:
        for _ in range(delay):
            engine.update(batch, noise)
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


def _train(env: EnvSpec, config: Config) -> Loop:
    trainer = Trainer(env, config.with_values({"random_steps": max(config.batch_size, _RANDOM_STEPS)}))
    while trainer.env_steps < trainer.config.random_steps + _WARM_STEPS:
        trainer.step()
    trainer.learner.losses()
    envs, learner = _Clocked(trainer.envs, "step"), trainer.learner
    making = trainer.learner = _Clocked(learner, "update")  # type: ignore[assignment]
    trainer.collector.envs = envs  # type: ignore[assignment]
    if learner.drawing is None:
        updates = learner.engine = _Clocked(learner.engine, "update")
    else:
        updates = learner.drawing = _Clocked(learner.drawing, "update_many")  # type: ignore[assignment]
    first, began = trainer.env_steps, time.perf_counter()
    while trainer.env_steps < first + _TIMED_STEPS:
        trainer.step()
    seconds, steps = time.perf_counter() - began, trainer.env_steps - first
    trainer.envs.close()
    stepping = envs.seconds - making.seconds * (config.train_at == "beside")  # they are made within that step
    return Loop(steps / seconds, stepping / steps * 1e6, (seconds - stepping - updates.seconds) / steps * 1e6)
