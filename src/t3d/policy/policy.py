"""A trained policy on its own: what a robot needs, without the training code, an environment or PyTorch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t3d.errors import ConfigRefused, RunRefused
from t3d.formats import PolicyInfo
from t3d.frames import Stacks, frames_of, row_of, seen
from t3d.policy.architectures import ARCHITECTURES, operations_of
from t3d.policy.files import Tensors, read, split
from t3d.policy.normalizer import normalize
from t3d.policy.player import Floats, Operation, play
from t3d.spaces import ObsPart, part_of
from t3d.storage.checked_files import refuse_links

if TYPE_CHECKING:
    from t3d.policy.torch_nets import Algorithm

_log = logging.getLogger("t3d")

OnBad = Literal["raise", "hold"]


class Policy:
    """Map observations to actions in the environment's own units.

    Args:
        info: shapes, bounds and origin.
        tensors: of the network that plays, and what observations are normalised by.
        algorithm: the class it was trained by, where that plays with a network of its own.
        on_bad: what an observation that is not finite, or one that the network answers with no finite action, is
            answered with: `raise` raises, `hold` repeats the last good action of that row.

    Raises:
        ConfigRefused: on_bad is neither.
        ValueError: the tensors are not those of the network that info names.
    """

    def __init__(
        self, info: PolicyInfo, tensors: Tensors, algorithm: Algorithm | None = None, on_bad: OnBad = "raise"
    ) -> None:
        if on_bad not in ("raise", "hold"):
            raise ConfigRefused("on_bad is impossible", got=f"on_bad = {on_bad}", expected="raise or hold")
        self.info = info
        self.held = 0
        """How many actions were held since the policy was loaded, or reset."""
        self._on_bad, self._spaces = on_bad, info.spaces
        self._last = np.zeros((0, self._spaces.action_size), np.float32)  # (rows, A); NaN where there was none
        weights, self.statistics = split(info, tensors)
        """Mean and standard deviation, (S,) each, that observations are normalised by; None takes them raw."""
        self.operations: list[Operation] = []
        """What plays, as `player.py` runs it; empty for a network of a caller's own."""
        self._net: Callable[[Floats], Floats]
        if info.architecture in ARCHITECTURES:
            self.operations = operations_of(info, weights)
            self._net = partial(play, self.operations)
        else:
            assert algorithm is not None
            from t3d.policy.torch_nets import own_net

            self._net = own_net(info, weights, algorithm)

    def act(self, obs: Floats) -> Floats:
        """Return actions (N, A) in [-1, 1] for obs (N, S), raw as `Envs.seen` gives them; nothing is refused."""
        obs = np.ascontiguousarray(obs)  # another layout would give other bits
        return self._net(obs if self.statistics is None else normalize(obs, *self.statistics))

    def __call__(self, obs: ArrayLike | Mapping[str, Any]) -> NDArray[np.float32]:
        """Return the action for one observation, or the actions for a batch of them; always finite.

        Args:
            obs: in the environment's observation shape, or with one dimension more in front; a Dict or a Tuple where
                the environment gives such, each part with or without that dimension. Of an image the last K frames,
                the oldest first, (K, H, W, C) say: `player` keeps them.

        Returns:
            In the environment's action shape and units, with that dimension in front if obs has it.

        Raises:
            ValueError: obs has another shape, lacks a part, holds no real numbers, or numbers that are not finite
                and may not be answered with the last good action, or cannot, as there was none.
        """
        spaces = self._spaces
        front, parts = self.parts_of(obs, {part: self._shape_of(part) for part in spaces.obs})
        rows = math.prod(front)
        vectors = [parts[part.name].reshape(rows, math.prod(part.shape)) for part in spaces.vectors]
        flat = np.concatenate(vectors or [np.zeros((rows, 0), np.float32)], axis=1)
        if spaces.view is not None:
            images, stack = {part.name: parts[part.name] for part in spaces.images}, range(spaces.view.frame_stack)
            frames = [
                frames_of(spaces, {n: s[row, k] for n, s in images.items()}) for row in range(rows) for k in stack
            ]
            flat = seen(spaces, np.array(frames, np.uint8).reshape(rows, spaces.pixels), flat)
        return self.of_flat(flat).reshape(front + spaces.action_shape)

    def parts_of(
        self, obs: Any, shapes: Mapping[ObsPart, tuple[int, ...]]
    ) -> tuple[tuple[int, ...], dict[str, NDArray[Any]]]:
        """Return the shape of what stands before each part of an observation, () or (N,), and the parts by name.

        Args:
            obs: as in a call.
            shapes: of each part, of one observation.

        Raises:
            ValueError: as a call.
        """
        arrays = {part: self._array_of(obs, part, shape) for part, shape in shapes.items()}
        leading = {array.shape[: array.ndim - len(shapes[part])] for part, array in arrays.items()}
        if len(leading) != 1:
            raise ValueError(f"the parts of these observations are of different numbers: {leading}")
        (front,) = leading
        return front, {part.name: array.reshape(math.prod(front), *shapes[part]) for part, array in arrays.items()}

    def _shape_of(self, part: ObsPart) -> tuple[int, ...]:
        view = self._spaces.view
        return part.shape if view is None or part.dtype != "uint8" else (view.frame_stack, *part.shape)

    def player(self) -> Player:
        """Return what plays one observation after the other, as an environment or a camera gives them."""
        return Player(self)

    def of_flat(self, flat: Floats) -> NDArray[np.float32]:
        """Return actions (N, A) in the environment's units, as a call does, for flattened observations (N, S).

        Raises:
            ValueError: as a call.
        """
        finite: NDArray[np.bool_] = np.isfinite(flat).all(axis=1)  # type: ignore[assignment]
        action = self._spaces.to_env_units(self.act(flat if finite.all() else np.where(finite[:, None], flat, 0)))
        finite &= np.isfinite(action).all(axis=1)
        if self._on_bad == "hold":
            self._hold(action, finite)
        if not finite.all():
            self._refuse(flat, finite)
        return action

    def reset(self) -> None:
        """Forget the last good actions, as at the beginning of an episode, and count those held from 0."""
        self._last, self.held = self._last[:0], 0

    def _hold(self, action: Floats, finite: NDArray[np.bool_]) -> None:
        """Replace what is not finite by the row's last good action, where there is one, and remember the good ones."""
        if len(self._last) < len(action):
            new = np.full((len(action) - len(self._last), action.shape[1]), np.nan, np.float32)
            self._last = np.concatenate([self._last, new])
        last = self._last[: len(action)]
        held = ~finite & np.isfinite(last).all(axis=1)
        action[held] = last[held]
        last[finite] = action[finite]
        self.held += int(np.count_nonzero(held))
        finite |= held

    def _refuse(self, flat: NDArray[Any], finite: NDArray[np.bool_]) -> None:
        row = int(np.flatnonzero(~finite)[0])
        where = f" of row {row}" if len(flat) > 1 else ""
        bad = np.flatnonzero(~np.isfinite(flat[row]))
        none = ", and no good action has been seen that could be held" if self._on_bad == "hold" else ""
        if len(bad):
            what = f"the observation{where} is not finite at index {bad[:10].tolist()}: {flat[row, bad[:10]].tolist()}"
        else:
            what = f"the action for the observation{where} is not finite; the largest number in it is "
            what += f"{np.abs(flat[row]).max()}"
        raise ValueError(f"{what}{none}; t3d.load(..., on_bad='hold') answers with the last good action")

    def _array_of(self, obs: Any, part: ObsPart, shape: tuple[int, ...]) -> NDArray[Any]:
        takes = "this policy takes observations of"
        of_part = "" if part.name == "obs" else f" in the part {part.name}"
        try:
            given = np.asarray(part_of(obs, part.name))
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{takes} {self._spaces.obs_in_words}: {error}") from error
        if given.dtype.kind not in "biuf":
            raise ValueError(f"{takes} real numbers{of_part}, got {given.dtype}")
        if part.dtype == "uint8" and given.dtype != np.uint8:
            raise ValueError(f"{takes} an image of uint8{of_part}, got {given.dtype}")
        if given.shape != shape and given.shape[1:] != shape:
            alone = given.shape == part.shape
            hint = f": that is one frame, and it sees {shape[0]} at once; policy.player() keeps them" if alone else ""
            raise ValueError(f"{takes} shape {shape} or (N, *{shape}){of_part}, got {given.shape}{hint}")
        with np.errstate(over="ignore"):  # what is too large for float32 is not finite then, and refused for that
            return given.astype(part.dtype)

    def predict(
        self,
        obs: ArrayLike | Mapping[str, Any],
        state: NDArray[np.uint8] | None = None,
        episode_start: ArrayLike | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:
        """Return (action, state): the convention Stable-Baselines3's helpers expect.

        Args:
            obs: as in a call; of an image the newest frame alone.
            state: what this returned for the observations before; None begins. A policy of vectors has none.
            episode_start: of each row whether an episode begins with it, so that frames before it are forgotten.
            deterministic: TD3's policy has no randomness of its own, so both values give the same action.
        """
        if self._spaces.view is None:
            return self(obs), None
        player = Player(self, state)
        action = player(obs, episode_start)
        return action, player.state


class Player:
    """Play a policy on one observation after the other; of images it keeps the last frames.

    Args:
        policy: what plays.
        state: of another player, to go on where that stood.
    """

    def __init__(self, policy: Policy, state: NDArray[np.uint8] | None = None) -> None:
        self._policy = policy
        self.state = state
        """The last frames as they are kept, (N, K, C * H * W), the oldest first; None at first."""

    def __call__(
        self, obs: ArrayLike | Mapping[str, Any], episode_start: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Return the action for the next observation, or the actions for a batch of them.

        Args:
            obs: as the environment gives it: of an image the newest frame.
            episode_start: (N,) where an episode begins with it; as after `reset`.

        Raises:
            ValueError: as a call of the policy; or there were other numbers of observations before.
        """
        spaces = self._policy.info.spaces
        if spaces.view is None:
            return self._policy(obs)
        front, parts = self._policy.parts_of(obs, {part: part.shape for part in spaces.obs})
        rows = np.stack([row_of(spaces, {n: a[i] for n, a in parts.items()}) for i in range(math.prod(front))])
        stacks, begins = Stacks(spaces, len(rows)), np.broadcast_to(self.state is None, len(rows))
        if self.state is not None:
            if len(self.state) != len(rows):
                raise ValueError(f"{len(rows)} observations behind {len(self.state)}; reset() begins anew")
            stacks.frames[:] = self.state
            begins = np.zeros(len(rows), bool) if episode_start is None else np.asarray(episode_start, bool).ravel()
        stacks.push(rows)
        stacks.begin(rows, begins)
        self.state = stacks.frames
        return self._policy.of_flat(stacks.seen(rows)).reshape(front + spaces.action_shape)

    def reset(self) -> None:
        """Begin an episode: forget the frames before it, and the last good actions."""
        self.state = None
        self._policy.reset()


def load(path: str | Path, algorithm: Algorithm | None = None, on_bad: OnBad = "raise") -> Policy:
    """Load a policy. No code is run from the file, and neither an environment nor PyTorch is needed.

    Args:
        path: a run folder (its best policy is taken; the last of a run that had no evaluation, which is said), or a
            policy's .safetensors file.
        algorithm: the class it was trained by, where that plays with a network of its own.
        on_bad: as for `Policy`.

    Raises:
        RunRefused: there is no such policy, it is not as it was written, or its network is not one of t3d's own and the
            class is missing.
    """
    file = file_of(Path(path))
    try:
        info, tensors = read(file)
    except OSError as error:
        raise RunRefused("a policy cannot be read", got=str(error), do="see to the disk, then try again") from error
    if info.architecture not in ARCHITECTURES and algorithm is None:
        raise RunRefused(
            "this policy plays with a network that is not one of t3d's own",
            got=f"{file}: {info.architecture}, of the algorithm {info.algorithm}",
            expected="the algorithm's class: none is looked up by the name that a file gives it",
            do=f"in Python, t3d.load(..., algorithm={info.algorithm}) if you trust that class; it cannot be exported",
        )
    try:
        return Policy(info, tensors, algorithm, on_bad)
    except (KeyError, ValueError, TypeError) as error:
        raise RunRefused(
            "a policy is not as it was written", got=f"{file}: {str(error)[:1000]}", do="copy it again"
        ) from error


def file_of(path: Path) -> Path:
    """Return the policy's file: of a run folder its best one, or the last where there is no best yet, which is said.

    Raises:
        RunRefused: there is none, or a link stands in its place.
    """
    if path.is_dir():
        folder = path / "policy"
        path, last = folder / "best.safetensors", folder / "last.safetensors"
        refuse_links(folder, path, last)
        if last.is_file() and not path.exists():
            _log.warning("%s has no best policy, so this is its last one", folder.parent)
            path = last
    if not path.is_file():
        raise RunRefused(
            "there is no policy here",
            got=str(path),
            expected="a run folder, or a policy's .safetensors file",
            do="name a folder that t3d train has printed",
        )
    return path
