"""Every option of a training run, with its help: the command line, the algorithm and the files read these classes.

Only dataclasses live here and nothing heavy is imported, so that `t3d train --help` answers at once. A field has
its range in its type, which msgspec holds it to, and in its metadata whether it changes any number of a run.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from t3d.env_spec import ActionRepeat, FrameColor, FrameSize, FrameStack, View
from t3d.errors import ConfigRefused

# A configuration may come from a stranger's file: what is above these limits would only fail later, and dearly.
_MAX_INT = 2**63 - 1
_MAX_LAYERS, _MAX_WIDTH = 64, 2**20
_MAX_THREADS = 256
# A checkpoint holds the losses of each since the last log line, and nobody reads one that may be of any size.
MAX_UNLOGGED_UPDATES = 1_500_000
# With --train-at episode, env steps without an update at most. td7 judges a policy by up to 20 whole episodes, of the
# usual 1,000 steps.
BURST_STEPS = {"td3": 1_000, "td7": 20_000}

_Count = Annotated[int, Meta(ge=0, le=_MAX_INT, description="a whole number, 0 or above")]
_Positive = Annotated[int, Meta(ge=1, le=_MAX_INT, description="a whole number, 1 or above")]
_FromZero = Annotated[float, Meta(ge=0, le=sys.float_info.max, description="a finite number, 0 or above")]
_AboveZero = Annotated[float, Meta(gt=0, le=sys.float_info.max, description="a finite number, above 0")]
_Discount = Annotated[float, Meta(ge=0, le=1, description="0 to 1")]
_Share = Annotated[float, Meta(gt=0, le=1, description="above 0, at most 1")]
_Width = Annotated[int, Meta(ge=1, le=_MAX_WIDTH, description=f"a whole number, 1 to {_MAX_WIDTH:,}")]
_Widths = Annotated[
    tuple[_Width, ...],
    Meta(
        min_length=1,
        max_length=_MAX_LAYERS,
        description=f"1 to {_MAX_LAYERS} widths, above 0 and at most {_MAX_WIDTH:,}",
    ),
]
_Device = Annotated[str, Meta(pattern=r"\A(cpu|cuda(:\d{1,2})?)\Z", description="cpu, cuda or cuda:N")]
_Workers = Annotated[int, Meta(ge=0, le=_MAX_THREADS, description=f"a whole number, 0 to {_MAX_THREADS}")]
_Threads = Annotated[
    Literal["auto"] | Annotated[int, Meta(ge=1, le=_MAX_THREADS)], Meta(description=f"auto, or 1 to {_MAX_THREADS}")
]
_LayerNorm = Annotated[Literal["none", "critic", "both"], Meta(description="none, critic or both")]
_Engine = Annotated[Literal["auto", "eager", "fused"], Meta(description="auto, eager or fused")]
_Interval = Annotated[
    Literal["never"] | Annotated[int, Meta(ge=1, le=_MAX_INT)], Meta(description="never, or a whole number, 1 or above")
]
_EvalEnv = Annotated[Literal["new", "same"], Meta(description="new or same")]
_Climb = Annotated[Literal["mean", "q1"], Meta(description="mean or q1")]
ALGORITHMS = ("td3", "td7")
_Algorithm = Annotated[Literal["td3", "td7"], Meta(description="td3 or td7")]
_TrainAt = Annotated[Literal["step", "beside", "episode"], Meta(description="step, beside or episode")]
_OnResume = Annotated[Literal["repeat", "reset"], Meta(description="repeat or reset")]
_Flag = Annotated[bool, Meta(description="True or False")]
_OptionalPositive = Annotated[_Positive | None, Meta(description="a whole number, 1 or above, or None")]
_OptionalFromZero = Annotated[_FromZero | None, Meta(description="a finite number, 0 or above, or None")]

# Metadata of an option that changes no number of a run: one may be continued with another value, and compared.
_IDLE = {"idle": True}
# Of one that means something in that algorithm alone.
_TD3, _TD7 = {"only": "td3"}, {"only": "td7"}


@functools.cache
def _kinds(options: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(options, include_extras=True)
    return {name: kind for name, kind in hints.items() if name != "td3"}


def _hold_to_kinds(config: TD3Config | Config) -> None:
    """Refuse a value that its field's type does not take; one that it does is kept in that type, 1 as 1.0."""
    for name, kind in _kinds(type(config)).items():  # type: ignore[arg-type]  # mypy: a dataclass is no Hashable
        value = getattr(config, name)
        try:
            object.__setattr__(config, name, msgspec.convert(value, kind))
        except msgspec.ValidationError as error:
            raise ConfigRefused(
                f"{name} is impossible",
                got=f"{name} = {str(value)[:200]}",
                expected=kind.__metadata__[0].description,
                do=f"change --{name.replace('_', '-')}",
            ) from error


@dataclass(frozen=True, kw_only=True)
class TD3Config:
    """Options of the algorithm, steps 2 to 15. Actions, and so all noise, are in units of [-1, 1]."""

    hidden: _Widths = (256, 256)
    """Width of each hidden layer, in the actor and in both critics."""
    lr: _AboveZero = 3e-4
    """Learning rate of both Adams."""
    gamma: _Discount = 0.99
    """Discount per step, in [0, 1]."""
    tau: _Share = field(default=0.005, metadata=_TD3)
    """Polyak step of td3's targets, in (0, 1]: target = tau * online + (1 - tau) * target."""
    policy_noise: _FromZero = 0.2
    """Standard deviation of the noise added to the target actor's action."""
    noise_clip: _FromZero = 0.5
    """That noise is clipped to [-noise_clip, noise_clip]."""
    policy_delay: _Positive = 2
    """The actor and the targets move at every policy_delay-th update."""
    layer_norm: _LayerNorm = field(default="none", metadata=_TD3)
    """Layer normalisation of the hidden layers: none, as in the paper; of the critics; of both kinds of network."""
    embedding: _Width = field(default=256, metadata=_TD7)
    """Width of td7's encoders and of what they say of a state."""
    climb: _Climb = field(default="mean", metadata=_TD7)
    """What td7's actor climbs: the mean of both critics, as published, or q1 alone, as in td3."""
    pre_tanh_weight: _FromZero = field(default=0.0, metadata=_TD7)
    """Weight, in the loss of td7's actor, of the mean square of its outputs before tanh: it leads an actor back from
    the bounds, where tanh passes no gradient; 0, as published, leaves it out."""

    def __post_init__(self) -> None:
        _hold_to_kinds(self)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything but the environment that decides how a run goes.

    The same environment and an equal configuration give, on one machine, equal weights.
    """

    steps: _Positive = 1_000_000
    """Env steps to train for, over all environments together."""
    algorithm: _Algorithm = "td3"
    """td3, the 15 steps; td7, by its author: learned embeddings, prioritised batches, a checkpointed policy; or
    path/to/file.py:Name or module:Name of a class of your own that is derived from one of them."""
    seed: _Count = 0
    """Everything random in the run follows from this number."""
    n_envs: _Positive = 1
    """Environments stepped side by side."""
    env_workers: _Workers = field(default=0, metadata=_IDLE)
    """Processes that share them, for slow environments; 0 steps them in this one. It changes no result."""
    env_timeout: _AboveZero = field(default=60.0, metadata=_IDLE)
    """Seconds that a step or reset may take in such a process. Making may take a minute even where this is less."""
    random_steps: _Count = 10_000
    """Env steps of uniformly random actions before the actor acts and updates begin."""
    exploration_noise: _FromZero = 0.1
    """Standard deviation of the noise on the actor's actions while training, in units of [-1, 1]."""
    exploration_noise_final: _OptionalFromZero = None
    """What it moves to in a straight line; None: it stays as it is."""
    exploration_noise_steps: _Count = 0
    """Env steps, after the random ones, in which it gets there."""
    normalize_obs: _Flag = False
    """Normalise what the networks see: minus the mean of all observations so far, over their standard deviation."""
    updates_per_step: _FromZero = 1.0
    """Updates per env step after the random ones, whatever n_envs is."""
    train_at: _TrainAt = "step"
    """When updates are made: after each step; beside the next one, which slow environments take in a process of their
    own (env_workers) meanwhile; or all that are due once an episode ends, or 1,000 env steps after the last ones, so
    that an episode is played by one policy."""
    batch_size: _Positive = 256
    """Transitions per update."""
    buffer_size: _Positive = 1_000_000
    """Slots of the replay memory: one a transition, and one more at each episode's end."""
    eval_every: _Interval = 10_000
    """Env steps between two evaluations; never: the last policy counts, and training episodes tell how it goes."""
    eval_episodes: _Positive = 10
    """Episodes per evaluation."""
    eval_env: _EvalEnv = "new"
    """Where evaluations play: in an environment made anew, or in the same that trains, once an episode is over."""
    log_every: _Positive = 1_000
    """Env steps between two update lines in metrics.jsonl."""
    checkpoint_every: _Positive = field(default=10_000, metadata=_IDLE)
    """Env steps between two checkpoints; a signal, an environment's failure and the end make one too."""
    checkpoint_seconds: _AboveZero = field(default=60.0, metadata=_IDLE)
    """Seconds after which there is one in any case."""
    on_resume: _OnResume = field(default="repeat", metadata=_IDLE)
    """Repeat the actions of the unfinished episode, so that every bit is as it was; or reset, and begin another."""
    hardware: _Flag = False
    """It is one physical device: --eval-env same, --on-resume reset, no film, one seed at a time, if you do not say
    otherwise."""
    fresh_envs: _Flag = False
    """Make the environment anew for every episode, for those that carry traces from one into the next."""
    max_episode_steps: _OptionalPositive = None
    """Truncate every episode after so many env steps, in training and in evaluations; for environments without a limit.
    With an action repeat that is so many decisions."""
    action_repeat: ActionRepeat = 1
    """Frames of the environment that one action is played for; one env step of a run is one decision."""
    frame_size: FrameSize = 64
    """Pixels of a frame's side: images among the observations are brought to it. Without images it means nothing, nor
    do the next two."""
    frame_color: FrameColor = "grey"
    """Whether frames are seen in grey or rgb."""
    frame_stack: FrameStack = 3
    """Frames that the networks see at once, the newest and those before it: a single one shows no velocity."""
    device: _Device = "cpu"
    """Where the networks live: cpu, or cuda, or cuda:1."""
    engine: _Engine = "auto"
    """What runs the updates: eager (the text itself), fused (the same, compiled, on a CPU), or the fastest that can."""
    threads: _Threads = "auto"
    """CPU threads of one update; auto chooses by networks, batch and usable cores, and with --seeds takes one a run."""
    td3: TD3Config = field(default_factory=TD3Config)
    """The algorithm's own options."""

    def __post_init__(self) -> None:
        _hold_to_kinds(self)

    def exploration_noise_at(self, env_steps: int) -> float:
        """Return the standard deviation of the exploration noise after so many env steps."""
        if self.exploration_noise_final is None:
            return self.exploration_noise
        share = min(1.0, max(0, env_steps - self.random_steps) / self.exploration_noise_steps)
        return (1 - share) * self.exploration_noise + share * self.exploration_noise_final

    @property
    def view(self) -> View:
        """How the run looks at its environment."""
        return View(self.frame_size, self.frame_color, self.frame_stack, self.action_repeat)

    @property
    def will_learn(self) -> bool:
        """Whether a run of these options makes any update at all."""
        return self.updates_at(self.steps) > 0

    @property
    def slots_per_env(self) -> int:
        """Slots of the replay memory that each environment has."""
        return self.buffer_size // self.n_envs

    def updates_at(self, env_steps: int) -> int:
        """Return how many updates so many env steps have earned."""
        return int(max(0, env_steps - self.random_steps) * self.updates_per_step)

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """Return a copy in which the named options have other values.

        Args:
            values: option name to value; the algorithm's options stand beside the run's, as on the command line.

        Raises:
            ConfigRefused: an unknown name (the nearest known one is suggested) or an impossible value.
        """
        algorithm = {f.name for f in dataclasses.fields(TD3Config)}
        run = {f.name for f in dataclasses.fields(Config)} - {"td3"}
        for name in values:
            if name not in algorithm | run:
                near = difflib.get_close_matches(name, algorithm | run, n=1)
                raise ConfigRefused(
                    "there is no such option",
                    got=name,
                    expected=f"for example {near[0]}" if near else "a field of Config or TD3Config",
                    do="t3d train --help lists every option",
                )
        td3 = dataclasses.replace(self.td3, **{k: v for k, v in values.items() if k in algorithm})
        return dataclasses.replace(self, td3=td3, **{k: v for k, v in values.items() if k in run})

    def check_together(self) -> None:
        """Refuse options that are possible alone and impossible together.

        Kept apart from the fields' own checks: while a preset and flags are laid over each other, a half-built
        configuration may contradict itself.

        Raises:
            ConfigRefused: an option means nothing in this algorithm, or is one it cannot do with; the batch, or the
                environments' shares, do not fit into the replay; a worker would have no environment; too many updates
                lie between two log lines; half of a schedule is given; or evaluations would have to wait for several
                environments.
        """
        self._refuse_what_the_algorithm_does_not_know()
        if (self.exploration_noise_final is None) != (self.exploration_noise_steps == 0):
            raise ConfigRefused(
                "this is half of a schedule of the exploration noise",
                got=f"exploration_noise_final = {self.exploration_noise_final}, "
                f"exploration_noise_steps = {self.exploration_noise_steps}",
                expected="both, or neither",
                do="give --exploration-noise-final and --exploration-noise-steps",
            )
        if self.batch_size > self.buffer_size:
            raise ConfigRefused(
                "the batch is larger than the replay memory",
                got=f"batch_size = {self.batch_size}, buffer_size = {self.buffer_size}",
                expected="batch_size <= buffer_size",
                do="lower --batch-size or raise --buffer-size",
            )
        if self.buffer_size < 3 * self.n_envs:
            raise ConfigRefused(
                "the replay memory is too small for that many environments",
                got=f"buffer_size = {self.buffer_size}, n_envs = {self.n_envs}",
                expected="3 slots or more for each environment",
                do="raise --buffer-size",
            )
        # A log line comes at the first vector step that reaches it. Whatever --steps says: it may grow.
        waiting = BURST_STEPS[self.algorithm] if self.train_at == "episode" else 0
        unlogged = (self.log_every + self.n_envs + waiting) * self.updates_per_step
        if unlogged > MAX_UNLOGGED_UPDATES:
            raise ConfigRefused(
                "too many updates would lie between two log lines: a checkpoint holds the losses of each",
                got=f"log_every = {self.log_every}, updates_per_step = {self.updates_per_step}: {unlogged:,.0f}",
                expected=f"at most {MAX_UNLOGGED_UPDATES:,}",
                do="lower --log-every",
            )
        if self.eval_env == "same" and self.n_envs > 1 and self.eval_every != "never":
            raise ConfigRefused(
                "evaluations in the environment that trains need one that trains alone",
                got=f"eval_env = same, n_envs = {self.n_envs}",
                expected="n_envs = 1",
                do="lower --n-envs, or give --eval-env new or --eval-every never",
            )
        if self.env_workers > self.n_envs:
            raise ConfigRefused(
                "a worker process would have no environment",
                got=f"env_workers = {self.env_workers}, n_envs = {self.n_envs}",
                expected="env_workers <= n_envs",
                do="lower --env-workers or raise --n-envs",
            )

    def _refuse_what_the_algorithm_does_not_know(self) -> None:
        for option in dataclasses.fields(TD3Config):
            only, value = option.metadata.get("only", self.algorithm), getattr(self.td3, option.name)
            if only != self.algorithm and value != option.default:
                raise ConfigRefused(
                    f"{option.name} means nothing in {self.algorithm}",
                    got=f"{option.name} = {value}",
                    expected=f"{option.default}, its default, which is not looked at; it is an option of {only}",
                    do=f"leave --{option.name.replace('_', '-')} out",
                )
        if self.algorithm == "td7" and (self.n_envs, self.train_at) != (1, "episode"):
            raise ConfigRefused(
                "td7 judges a policy by whole episodes, one after the other, and learns between them",
                got=f"n_envs = {self.n_envs}, train_at = {self.train_at}",
                expected="n_envs = 1, train_at = episode",
                do="give --n-envs 1 --train-at episode, or --preset td7",
            )


def refuse_before_it_learns(config: Config) -> None:
    """Refuse a run that ends before its random actions do; not for whoever has said how many these are.

    Raises:
        ConfigRefused: it does.
    """
    if config.steps <= config.random_steps:
        raise ConfigRefused(
            "this run would end before it learns: all its actions would be random",
            got=f"steps = {config.steps:,}, random_steps = {config.random_steps:,}",
            expected="steps > random_steps",
            do=f"raise --steps, or give --random-steps, say {max(1, config.steps // 5):,}",
        )


# Options that change no number of a run.
IDLE = frozenset(option.name for option in dataclasses.fields(Config) if option.metadata.get("idle"))
