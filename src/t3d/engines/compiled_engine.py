"""What the compiled engines share: an agent whose numbers they have adopted, room for batches, threads that help."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from t3d.engines import blas_and_threads, sale_kernels
from t3d.engines import kernels as k
from t3d.engines.adoption import Adopted
from t3d.engines.layout import inputs_of
from t3d.engines.team import Team
from t3d.replay import Batch
from t3d.td3 import TD3, Array, UpdateInfo, check_shapes

M = TypeVar("M", k.Memory, sale_kernels.Memory)  # all that an update reads and writes


def warn(line: str) -> None:
    """Tell the user on the error stream, where no answer of a program is expected."""
    print(line, file=sys.stderr)


class CompiledEngine(ABC, Generic[M]):
    """Runs an agent's updates in compiled code, on the agent's own numbers.

    The engine adopts the agent: parameters, targets and Adam's moments move into one block of memory, and the
    agent's modules and optimisers point there. So the agent can be saved, loaded, exported and updated by its
    own methods at any time, and this engine continues from there. What replaces tensors instead of filling them
    (an optimiser's `load_state_dict`) is noticed at the next call and adopted anew.

    Args:
        agent: the agent, see `refusal` in the engine's file.
        threads: threads that share an update, the caller's among them.
        say: called with a line when something takes long: the first run on a machine compiles.
    """

    def __init__(self, agent: TD3, threads: int = 1, say: Callable[[str], None] = warn) -> None:
        reason = self._refusal(agent)
        assert reason is None, reason
        self.agent = agent
        self.threads = threads
        self._say = say
        self._control = np.zeros(3, np.int64)
        self._learn: M | None = None
        self._play: M | None = None
        self._team: Team | None = None
        self.adopt()

    def adopt(self) -> None:
        """Move the agent's numbers into this engine's memory, and point the agent at them."""
        self._release_team()
        self._learn = self._play = None
        self._dtype = np.dtype(str(next(self.agent.actor.parameters()).dtype).removeprefix("torch."))
        self._numbers = self._take_over()
        self._compiled_update, self._compiled_act = self._compile()

    @staticmethod
    @abstractmethod
    def _refusal(agent: TD3) -> str | None:
        """Return why this engine cannot run an agent, or None if it can."""

    @abstractmethod
    def _take_over(self) -> Adopted:
        """Adopt the agent's numbers, and note what else of it an update needs."""

    @abstractmethod
    def _compile(self) -> tuple[Callable[..., object], Callable[..., object]]:
        """Return the update and acting, compiled."""

    @abstractmethod
    def _memory(self, batch: int, threads: int) -> M:
        """Make room for batches of a size, beside the adopted weights."""

    @staticmethod
    @abstractmethod
    def _serve(memory: M, thread: int, lock: int) -> None:
        """Be one of the threads that help, until it is to stop."""

    def _is_whole(self) -> bool:
        """Return whether nobody has replaced what was adopted."""
        return self._numbers.is_whole()

    def _release_team(self) -> None:
        if self._team is not None:
            self._team.stop()
            self._team = None

    def act(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the actor's actions (N, A), without noise, for obs (N, S)."""
        if obs.shape != (len(obs), size := self.agent.spaces.obs_size):
            raise ValueError(f"expected obs (N, {size}), got {obs.shape}")
        if self._play is None or self._play.at[k.B] != len(obs):
            self._play = self._memory(len(obs), 1)
        memory = self._play
        action = np.empty((len(obs), int(memory.at[k.A])), self._dtype)
        blas_and_threads.run(self._compiled_act, memory, np.ascontiguousarray(obs, self._dtype), action)
        return action

    def _prepare(self, batch: int) -> M:
        """Return the memory of updates with batches of a size; it and its threads are made anew for another size."""
        if not self._is_whole():
            self.adopt()
        if self._learn is None or self._learn.at[k.B] != batch:
            self._release_team()
            self._learn = self._memory(batch, self.threads)
            self._inputs = inputs_of(self._learn.at, self._learn.work)
            self._team = Team(self._learn, self.threads, self._serve)
        return self._learn

    def _locks(self) -> NDArray[np.int64]:
        """Return the locks that the other threads wait for."""
        assert self._team is not None
        return self._team.locks

    def update(
        self, batch: Batch[NDArray[np.float32]] | Batch[Tensor], noise: Array, td_error: bool = False
    ) -> UpdateInfo:
        """Learn from one batch, as the agent's own `update` does.

        Args:
            batch: B transitions, as arrays or tensors.
            noise: (B, A) standard normal.
            td_error: say how wrong the critics were of each transition.

        Returns:
            What the update saw.

        Raises:
            ValueError: the shapes of batch and noise do not fit together.
        """
        check_shapes(batch, noise, self.agent.spaces)
        rows = len(batch.reward)
        memory = self._prepare(rows)
        for place, part in zip(self._inputs, (*batch, noise), strict=True):
            place[...] = part
        info = self._learn_once(memory, td_error)
        if not td_error:
            return info
        start = int(memory.at[k.ERRORS])
        return info._replace(td_error=memory.work[start : start + 2 * rows].reshape(2, rows).copy())

    @abstractmethod
    def _learn_once(self, memory: M, td_error: bool) -> UpdateInfo:
        """Make an update with the batch in `_inputs`; td_error: the critics' errors are asked for."""
