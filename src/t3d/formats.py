"""What the files of a run say, each declared once: msgspec decodes them, and holds them to the ranges that stand here.

config.json is a `RunRecord`, a checkpoint's manifest.json a `Manifest`, a line of metrics.jsonl a row of `ROWS`, and
what a policy says of itself a `PolicyInfo`. Files may come from strangers: whatever is decoded lies in the ranges, so
that nothing fails later, or dearly, for a number that cannot be.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from t3d.config import IDLE, Config
from t3d.env_spec import ActionRepeat, EnvSpec, View
from t3d.frames import FEATURES, encoder_weights
from t3d.spaces import ObsPart, Shape, Spaces

# Of config.json, checkpoints, the replay memory's segments, metrics.jsonl and policies, all together.
FORMAT = 3

# Beyond 2**53 numbers in JSON have gaps for some of its readers, a browser's among them.
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Seconds = Annotated[float, Meta(ge=0)]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Text = Annotated[str, Meta(max_length=5_000)]
Source = Annotated[str, Meta(pattern=r"\A([0-9a-f]{64}|unknown)\Z")]
ClassName = Annotated[str, Meta(pattern=r"\A[\w.<>]{1,200}\Z")]
Period = Annotated[float, Meta(gt=0)] | None  # s of an env step in the environment's own time, where that is known
ObsParts = Annotated[tuple[ObsPart, ...], Meta(min_length=1, max_length=1_000)]
MAX_WEIGHTS = 1 << 28  # a gigabyte
# Policies that are kept on the way, by the share of the planned steps.
MILESTONES = {"start": 0.0, "quarter": 0.25, "half": 0.5}


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a file: all its fields, and no others."""


class Engine(Record, frozen=True):
    """What runs a run's updates."""

    name: Text
    threads: Count
    reason: Text  # for people


class Machine(Record, frozen=True):
    """What a reader of a result must know of the machine and the libraries."""

    system: Text
    processor: Text
    cores: Count
    python: Text
    versions: dict[Text, Text]


def class_name(kind: type) -> str:
    """Return the name of a class as files record it."""
    return re.sub(r"[^\w.<>]", "_", kind.__qualname__)[:150]


def run_id(env: EnvSpec, algorithm: str, config: Config) -> str:
    """Return what tells a run from others: two of one id are the same run, and end with the same weights.

    Args:
        env: which environment.
        algorithm: its class's name.
        config: options that may change in a run that goes on are left out.
    """
    options = {name: value for name, value in msgspec.to_builtins(config).items() if name not in {*IDLE, "steps"}}
    identity = json.dumps([env.identity, algorithm, options], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(identity.encode()).hexdigest()


class RunRecord(Record, frozen=True, kw_only=True):
    """config.json: everything resolved, what was chosen, machine and versions; enough to repeat the run."""

    format: int = FORMAT
    run: Sha256  # the run id: equal for runs that are the same
    env: Text
    env_kwargs: dict[Text, Any]
    wrappers: tuple[Text, ...]
    pixels: bool
    drawn_by: Text  # what drew the pixels; empty without
    preset: Text
    algorithm: ClassName  # as `contract.name_of` gave it
    # Checksums of what a caller's algorithm was written in, as `sources.source_of` gave them: several where it was
    # changed, the newest last; none of t3d's own.
    sources: Annotated[tuple[Source, ...], Meta(max_length=1_000)]
    obs: ObsParts
    period_s: Period
    config: Config
    engine: Engine
    machine: Machine

    def __post_init__(self) -> None:
        if self.run != (made := run_id(self.spec, self.algorithm, self.config)):
            raise ValueError(f"run {self.run} says of itself what makes it run {made}")

    @property
    def spec(self) -> EnvSpec:
        """Which environment it was trained in."""
        return EnvSpec(self.env, self.env_kwargs, self.wrappers, pixels=self.pixels, view=self.config.view)


def _linear(*sizes: int) -> int:
    return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))


class PolicyInfo(Record, frozen=True, kw_only=True):
    """What must be known of a policy beside its weights."""

    format: int = FORMAT
    run: Sha256  # of the run that it is from
    env: Text  # as people read it
    algorithm: ClassName
    architecture: ClassName  # of the network that plays, as `policy.architecture_of` gave it
    obs: ObsParts
    action_shape: Shape
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    view: View  # how its environment was looked at and played in
    period_s: Period
    hidden: Annotated[Shape, Meta(min_length=1)]
    layer_norm: bool
    embedding: Annotated[int, Meta(ge=1)]
    env_steps: Count  # that it had trained for
    return_mean: float | None  # what its evaluation gave, if it had one

    def __post_init__(self) -> None:
        actions = math.prod(self.action_shape)
        if not len(self.action_low) == len(self.action_high) == actions:
            raise ValueError(f"{len(self.action_low)} and {len(self.action_high)} bounds for {actions} actions")
        bounds = zip(self.action_low, self.action_high, strict=True)
        if not all(math.isfinite(high - low) and low < high for low, high in bounds):
            raise ValueError("action bounds that are not finite, with low < high")
        if self.weights > MAX_WEIGHTS:
            raise ValueError(f"{self.weights:,} weights, at most {MAX_WEIGHTS:,} are read")

    @property
    def spaces(self) -> Spaces:
        """What the policy sees and plays."""
        view = self.view if any(part.dtype == "uint8" for part in self.obs) else None
        return Spaces(self.obs, self.action_shape, self.action_low, self.action_high, view)

    @property
    def action_repeat(self) -> int:
        """Frames that each action was played for."""
        return self.view.action_repeat

    @property
    def weights(self) -> int:
        """How many numbers what plays holds at these sizes, if it is t3d's own."""
        spaces, actions, width = self.spaces, self.spaces.action_size, self.embedding
        obs_size = spaces.vector_size
        if self.architecture == "sale":
            encoder = _linear(obs_size, width, width, width)
            first = self.hidden[0]
            return encoder + _linear(obs_size, first) + _linear(first + width, *self.hidden, actions)
        encoder = 0
        if spaces.view is not None:
            encoder, obs_size = encoder_weights(spaces), FEATURES + obs_size
        return encoder + _linear(obs_size, *self.hidden, actions) + (2 * sum(self.hidden) if self.layer_norm else 0)


class FileState(Record, frozen=True):
    """How a file stood: how many bytes it had, and their SHA-256."""

    bytes: Count
    sha256: Sha256


class MetricsState(FileState, frozen=True):
    """How metrics.jsonl stood."""

    wall_s: Seconds  # since the run began, those in which it did not run left out


class SegmentState(FileState, frozen=True):
    """How a file of the replay memory's blocks stood."""

    name: Annotated[str, Meta(pattern=r"\A\d{8}\.rows\Z")]  # its first block's number: files are cut and removed by it
    ends: list[Count]  # of each env stream the position behind its last slot in here


class ReplayState(Record, frozen=True):
    """How the replay memory on disk stood."""

    blocks: Count
    segments: list[SegmentState]


class Pcg64(Record, frozen=True):
    """The two numbers of NumPy's PCG64, of 128 bits."""

    state: int
    inc: int


class RandomStream(Record, frozen=True):
    """Where a random stream stood."""

    bit_generator: Literal["PCG64"]
    state: Pcg64
    has_uint32: Literal[0, 1]
    uinteger: Annotated[int, Meta(ge=0, le=2**32 - 1)]


class EnvsState(Record, frozen=True):
    """Where the episodes of all env streams stood: an entry a stream."""

    env_steps: Count
    episode: list[Count]
    episode_return: list[float]
    length: list[Count]

    def __post_init__(self) -> None:
        if not len(self.episode) == len(self.episode_return) == len(self.length) > 0:
            raise ValueError("the env streams are not of one number")


class TrainerState(Record, frozen=True):
    """Everything of a trainer that is no tensor, but the replay memory's completed slots."""

    updates: Count
    burst_at: Count  # env steps at which updates were last begun that had waited for an episode's end
    streams: dict[Text, RandomStream]
    envs: EnvsState
    written: list[Annotated[int, Meta(ge=1, le=2**53 - 1)]]  # slots that each env stream has ever opened

    def __post_init__(self) -> None:
        if len(self.written) != len(self.envs.length):
            raise ValueError(f"{len(self.written)} rings for {len(self.envs.length)} env streams")
        if any(length >= written for length, written in zip(self.envs.length, self.written, strict=True)):
            raise ValueError("an episode of more steps than have been stored")


class Evaluation(Struct, frozen=True):
    """What an evaluation saw, one entry an episode."""

    returns: Annotated[list[float], Meta(min_length=1)]  # undiscounted sums of rewards
    lengths: Annotated[list[Count], Meta(min_length=1)]  # in env steps

    @property
    def return_mean(self) -> float:
        """Mean over the episodes."""
        return float(np.mean(self.returns))

    @property
    def return_std(self) -> float:
        """Standard deviation over the episodes (population: divided by their number)."""
        return float(np.std(self.returns))

    def __post_init__(self) -> None:
        if len(self.returns) != len(self.lengths):
            raise ValueError(f"{len(self.returns)} returns and {len(self.lengths)} lengths of episodes")


class ProgressState(Record, frozen=True):
    """How far the loop was: clocks, evaluations, failures."""

    last: Evaluation | None
    evaluated_at: Annotated[int, Meta(ge=-1, le=2**53 - 1)]  # env steps; -1: never
    best: Evaluation | None
    best_env_steps: Count
    preferred: Text  # which of the agent's policies the last evaluation found the better one
    not_exact: list[Text]  # why the run is not what it would have been undisturbed
    logged: Count  # log lines that were due until now
    evaluated: Count  # evaluations that were due until now
    failed_at: Annotated[int, Meta(ge=-1, le=2**53 - 1)]  # env steps of the last failure; -1: none
    failed_times: Count  # in a row, there

    def __post_init__(self) -> None:
        if (self.last is None) != (self.evaluated_at == -1) or (self.last is None and self.best is not None):
            raise ValueError("a last evaluation, when it was, a best one: one without the others")


class Manifest(Record, frozen=True, kw_only=True):
    """A checkpoint's manifest.json: everything that is no tensor, and how every other file stood."""

    run: Sha256
    number: Count  # of the checkpoint: the newest has the largest
    state: FileState  # of state.safetensors
    metrics: MetricsState
    replay: ReplayState
    trainer: TrainerState
    progress: ProgressState

    def __post_init__(self) -> None:
        streams = len(self.trainer.written)
        ends = [segment.ends for segment in self.replay.segments]
        if any(len(of_segment) != streams for of_segment in ends):
            raise ValueError(f"segments of another number of env streams than {streams}")
        if (ends[-1] if ends else [0] * streams) != [written - 1 for written in self.trainer.written]:
            raise ValueError("the replay memory on disk does not end where the one in memory did")


# metrics.jsonl: an object a line. A row stays a dict, as health may say more numbers than anybody lists. At its end a
# row has the CRC-32 of everything before it, the rows above without theirs: none can be changed, left out or added.

Row = dict[str, Any]
_Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | float
Values = dict[str, _Number | str | list[_Number] | None]
# The actor need not have moved, and an algorithm may have one critic.
_NOT_ALWAYS: dict[str, Any] = dict.fromkeys(("actor_loss", "q2"), float | None)
# What a row of each kind has beside env_steps and wall_s; it may have more.
_FIELDS: dict[str, dict[str, Any]] = {
    "run": {"run": Sha256},  # the first row
    "episode": {"env": Count, "return": float, "length": Count, "end": Literal["terminated", "truncated"]},
    "update": {"updates": Count} | dict.fromkeys(("critic_loss", "q1", "target_q"), float) | _NOT_ALWAYS,
    "evaluation": {"returns": list[float], "lengths": list[Count], "return_mean": float, "return_std": float},
    "health": {"of": Literal["batch", "evaluation"]},
    "event": {"what": str},
}
# What it may have. Of an event: between which env steps rows are gone. Of an evaluation: when it was due, if it waited
# for an episode's end; which of several policies did better, whose numbers it has; and the action repeat, above 1.
_MAYBE: list[tuple[str, Any, None]] = [
    ("lost", tuple[Count, Count] | None, None),
    ("due", Count | None, None),
    ("policy", Text | None, None),
    ("action_repeat", ActionRepeat | None, None),
]
ROWS = {
    kind: msgspec.defstruct(kind, [("env_steps", Count), ("wall_s", Seconds), *fields.items(), *_MAYBE])
    for kind, fields in _FIELDS.items()
}
