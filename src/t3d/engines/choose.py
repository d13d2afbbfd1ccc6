"""Which engine runs an agent's updates, and with how many threads.

`TD3` itself is the engine `eager`: it has both methods. `fused` does the same in compiled code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from t3d.config import Config
from t3d.errors import ConfigRefused
from t3d.frames import FEATURES, encoder_multiply_adds
from t3d.policy.normalizer import Normalizer
from t3d.replay import Batch, Replay
from t3d.spaces import Spaces
from t3d.td3 import TD3, Array, UpdateInfo
from t3d.variants.td7 import TD7

if TYPE_CHECKING:  # Numba takes its time to be imported
    from t3d.engines.fused import Fused

# Multiply-adds of an update from which on a second thread makes it 1.5 times as fast or more (measured, see
# docs/performance.md), and how many each further thread has to itself (not measured: that took two cores).
WORTH_TWO = 12_000_000
WORTH_A_THREAD = 25_000_000


class Engine(Protocol):
    """Plays and learns with an agent's numbers, wherever it keeps them."""

    def act(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the actor's actions (N, A), without noise, for obs (N, S)."""

    def update(
        self, batch: Batch[NDArray[np.float32]] | Batch[Tensor], noise: Array, td_error: bool = False
    ) -> UpdateInfo:
        """Learn from a batch with noise (B, A), standard normal; return what the update saw, as `TD3.update` does."""


class Chosen(NamedTuple):
    """An engine and why it is that one."""

    engine: Engine
    name: str
    reason: str  # for people


def choose(name: str, agent: TD3, threads: int, say: Callable[[str], None] | None = None) -> Chosen:
    """Return an engine for an agent.

    Args:
        name: eager, fused, or auto: the fastest that supports the agent.
        agent: what it shall run; the engine may move its numbers.
        threads: threads of one update.
        say: called with a line when something takes long; None prints to the error stream.

    Raises:
        ConfigRefused: an engine that does not support the agent was asked for.
    """
    if name == "eager":
        return Chosen(agent, "eager", "as asked")
    # Numba takes its time to be imported.
    from t3d.engines import blas_and_threads, compiled_engine, fused, sale

    reason = sale.refusal(agent) if isinstance(agent, TD7) else fused.refusal(agent)
    if reason is not None and name == "fused":
        raise ConfigRefused(
            "the fused engine cannot run this agent",
            got=reason,
            expected="MLPs of t3d's own TD3 or TD7 on the CPU",
            do="use --engine auto or eager",
        )
    if reason is not None:
        return Chosen(agent, "eager", f"not fused: {reason}")
    say = compiled_engine.warn if say is None else say
    engine = sale.FusedSale(agent, threads, say) if isinstance(agent, TD7) else fused.Fused(agent, threads, say)
    return Chosen(engine, "fused", f"matrix products by {blas_and_threads.blas}")


def that_draws(engine: Engine, replay: Replay, normalizer: Normalizer | None) -> Fused | None:
    """Return the engine if it can draw batches from a memory itself (`Fused.update_many`), to the plain path's bits.

    Args:
        engine: that was chosen.
        replay: the memory.
        normalizer: what observations are brought to one scale by; None takes them raw.

    Returns:
        None where the plain path is to be taken: draw, sample and normalise by Python, then `engine.update`.
    """
    if isinstance(engine, TD3):
        return None
    from t3d.engines import fused

    return engine if isinstance(engine, fused.Fused) and fused.can_draw(replay, normalizer) else None


def multiply_adds(spaces: Spaces, config: Config) -> int:
    """Return about how many multiply-adds an update takes; arguments as for `choose_threads`."""
    size, actions, hidden = spaces.vector_size, spaces.action_size, config.td3.hidden
    if config.algorithm == "td3":
        seeing = 0
        if spaces.view is not None:  # s forward and back, s' forward
            seeing, size = 4 * encoder_multiply_adds(spaces), FEATURES + size
        # Forward through seven networks and a half, and back through as good as five: about 11 products a weight.
        return config.batch_size * (seeing + 11 * _weights(size + actions, *hidden, 1))
    width, first = config.td3.embedding, hidden[0]
    zs, zsa = _weights(size, width, width, width), _weights(width + actions, width, width, width)
    actor = size * first + _weights(first + width, *hidden, actions)
    critic = (size + actions) * first + _weights(first + 2 * width, *hidden, 1)
    climbed = 1 if config.td3.climb == "q1" else 2
    # zs: three products to learn, one more of s', one each of the fixed and the target encoder; and so on. The actor
    # learns at half of the updates.
    return config.batch_size * round(6 * zs + 6 * zsa + 2.5 * actor + (7 + climbed) * critic)


def _weights(*widths: int) -> int:
    return sum(a * b for a, b in itertools.pairwise(widths))


def choose_threads(spaces: Spaces, config: Config, cores: int) -> int:
    """Return how many threads an update of the fused engine is worth.

    Args:
        spaces: S and A.
        config: the algorithm, its widths, and B.
        cores: cores this process may use.
    """
    amount = multiply_adds(spaces, config)
    threads = max(2 if amount >= WORTH_TWO else 1, round(amount / WORTH_A_THREAD))
    return max(1, min(cores, config.batch_size, threads))
