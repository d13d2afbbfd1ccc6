"""Every option of a training run, with its help: the command line and the algorithm read these same classes.

Only dataclasses live here and nothing heavy is imported, so that `t3d train --help` answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from t3d.errors import ConfigRefused


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        flag = "--" + name.replace("_", "-")
        got = f"{name} = {str(value)[:200]}"
        raise ConfigRefused(f"{name} is impossible", got=got, expected=expected, do=f"change {flag}")


_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "bool": (bool,),
    "str": (str,),
}
# A configuration may come from a stranger's file: what is above these limits would only fail later, and dearly.
_MAX_INT = 2**63 - 1
_MAX_LAYERS, _MAX_WIDTH = 64, 2**20
_MAX_THREADS = 256
# A checkpoint holds the losses of each since the last log line, and nobody reads one that may be of any size.
MAX_UNLOGGED_UPDATES = 1_500_000


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _MAX_INT


def _require_kinds(config: TD3Config | Config) -> None:
    for option in dataclasses.fields(config):
        value = getattr(config, option.name)
        kinds = _KINDS.get(str(option.type))
        if kinds:
            fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
            fits = fits and (not isinstance(value, int) or abs(value) <= _MAX_INT)
            _require(fits, option.name, value, f"a value of type {option.type}")


@dataclass(frozen=True, kw_only=True)
class TD3Config:
    """Options of the algorithm, steps 2 to 15. Actions, and so all noise, are in units of [-1, 1]."""

    hidden: tuple[int, ...] = (256, 256)
    """Width of each hidden layer, in the actor and in both critics."""
    lr: float = 3e-4
    """Learning rate of both Adams."""
    gamma: float = 0.99
    """Discount per step, in [0, 1]."""
    tau: float = 0.005
    """Polyak step of the targets, in (0, 1]: target = tau * online + (1 - tau) * target."""
    policy_noise: float = 0.2
    """Standard deviation of the noise added to the target actor's action."""
    noise_clip: float = 0.5
    """That noise is clipped to [-noise_clip, noise_clip]."""
    policy_delay: int = 2
    """The actor and the targets move at every policy_delay-th update."""
    layer_norm: Literal["none", "critic", "both"] = "none"
    """Layer normalisation of the hidden layers: none, as in the paper; of the critics; of both kinds of network."""

    def __post_init__(self) -> None:
        _require_kinds(self)
        widths_fit = isinstance(self.hidden, tuple | list) and all(
            _is_whole(n) and 0 < n <= _MAX_WIDTH for n in self.hidden
        )
        expected = f"1 to {_MAX_LAYERS} widths, above 0 and at most {_MAX_WIDTH:,}"
        _require(widths_fit and 0 < len(self.hidden) <= _MAX_LAYERS, "hidden", self.hidden, expected)
        _require(0 < self.lr < float("inf"), "lr", self.lr, "above 0")
        _require(0 <= self.gamma <= 1, "gamma", self.gamma, "0 to 1")
        _require(0 < self.tau <= 1, "tau", self.tau, "above 0, at most 1")
        _require(0 <= self.policy_noise < float("inf"), "policy_noise", self.policy_noise, "0 or above")
        _require(self.noise_clip >= 0, "noise_clip", self.noise_clip, "0 or above")
        _require(self.policy_delay >= 1, "policy_delay", self.policy_delay, "1 or above")
        known = self.layer_norm in ("none", "critic", "both")
        _require(known, "layer_norm", self.layer_norm, "none, critic or both")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything but the environment that decides how a run goes.

    The same environment and an equal configuration give, on one machine, equal weights.
    """

    steps: int = 1_000_000
    """Env steps to train for, over all environments together."""
    seed: int = 0
    """Everything random in the run follows from this number."""
    n_envs: int = 1
    """Environments stepped side by side."""
    env_workers: int = 0
    """Processes that share them, for slow environments; 0 steps them in this one. It changes no result."""
    env_timeout: float = 60.0
    """Seconds that a step or reset may take in such a process. Making may take a minute even where this is less."""
    random_steps: int = 10_000
    """Env steps of uniformly random actions before the actor acts and updates begin."""
    exploration_noise: float = 0.1
    """Standard deviation of the noise on the actor's actions while training, in units of [-1, 1]."""
    exploration_noise_final: float | None = None
    """What it moves to in a straight line; None: it stays as it is."""
    exploration_noise_steps: int = 0
    """Env steps, after the random ones, in which it gets there."""
    normalize_obs: bool = False
    """Normalise what the networks see: minus the mean of all observations so far, over their standard deviation."""
    updates_per_step: float = 1.0
    """Updates per env step after the random ones, whatever n_envs is."""
    batch_size: int = 256
    """Transitions per update."""
    buffer_size: int = 1_000_000
    """Slots of the replay memory: one a transition, and one more at each episode's end."""
    eval_every: int = 10_000
    """Env steps between two evaluations."""
    eval_episodes: int = 10
    """Episodes per evaluation."""
    log_every: int = 1_000
    """Env steps between two update lines in metrics.jsonl."""
    checkpoint_every: int = 10_000
    """Env steps between two checkpoints; a signal, an environment's failure and the end make one too."""
    checkpoint_seconds: float = 60.0
    """Seconds after which there is one in any case."""
    fresh_envs: bool = False
    """Make the environment anew for every episode, for those that carry traces from one into the next."""
    device: str = "cpu"
    """Where the networks live: cpu, or cuda, or cuda:1."""
    engine: Literal["auto", "eager", "fused"] = "auto"
    """What runs the updates: eager (the text itself), fused (the same, compiled, on a CPU), or the fastest that can."""
    threads: int | Literal["auto"] = "auto"
    """CPU threads of one update; auto chooses by networks, batch and usable cores, and with --seeds takes one a run."""
    td3: TD3Config = field(default_factory=TD3Config)
    """The algorithm's own options."""

    def __post_init__(self) -> None:
        _require_kinds(self)
        _require(self.steps >= 1, "steps", self.steps, "1 or above")
        _require(self.seed >= 0, "seed", self.seed, "0 or above")
        _require(self.n_envs >= 1, "n_envs", self.n_envs, "1 or above")
        _require(self.env_workers >= 0, "env_workers", self.env_workers, "0 or above")
        _require(0 < self.env_timeout < float("inf"), "env_timeout", self.env_timeout, "seconds, above 0")
        _require(self.random_steps >= 0, "random_steps", self.random_steps, "0 or above")
        _require(
            0 <= self.exploration_noise < float("inf"),
            "exploration_noise",
            self.exploration_noise,
            "0 or above",
        )
        final = self.exploration_noise_final
        _require(final is None or 0 <= final < float("inf"), "exploration_noise_final", final, "0 or above, or None")
        _require(
            self.exploration_noise_steps >= 0, "exploration_noise_steps", self.exploration_noise_steps, "0 or above"
        )
        _require(0 <= self.updates_per_step < float("inf"), "updates_per_step", self.updates_per_step, "0 or above")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or above")
        _require(self.buffer_size >= 1, "buffer_size", self.buffer_size, "1 or above")
        _require(self.eval_every >= 1, "eval_every", self.eval_every, "1 or above")
        _require(self.eval_episodes >= 1, "eval_episodes", self.eval_episodes, "1 or above")
        _require(self.log_every >= 1, "log_every", self.log_every, "1 or above")
        _require(self.checkpoint_every >= 1, "checkpoint_every", self.checkpoint_every, "1 or above")
        _require(self.checkpoint_seconds > 0, "checkpoint_seconds", self.checkpoint_seconds, "above 0")
        _require(
            re.fullmatch(r"cpu|cuda(:\d{1,2})?", self.device) is not None,
            "device",
            self.device,
            "cpu, cuda or cuda:N",
        )
        _require(self.engine in ("auto", "eager", "fused"), "engine", self.engine, "auto, eager or fused")
        fits = self.threads == "auto" or (_is_whole(self.threads) and 1 <= self.threads <= _MAX_THREADS)
        _require(fits, "threads", self.threads, f"auto, or 1 to {_MAX_THREADS}")

    def exploration_noise_at(self, env_steps: int) -> float:
        """Return the standard deviation of the exploration noise after so many env steps."""
        if self.exploration_noise_final is None:
            return self.exploration_noise
        share = min(1.0, max(0, env_steps - self.random_steps) / self.exploration_noise_steps)
        return (1 - share) * self.exploration_noise + share * self.exploration_noise_final

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
            ConfigRefused: the batch, or the environments' shares, do not fit into the replay; a worker would have
                no environment; too many updates lie between two log lines; or half of a schedule is given.
        """
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
        unlogged = (self.log_every + self.n_envs) * self.updates_per_step
        if unlogged > MAX_UNLOGGED_UPDATES:
            raise ConfigRefused(
                "too many updates would lie between two log lines: a checkpoint holds the losses of each",
                got=f"log_every = {self.log_every}, updates_per_step = {self.updates_per_step}: {unlogged:,.0f}",
                expected=f"at most {MAX_UNLOGGED_UPDATES:,}",
                do="lower --log-every",
            )
        if self.env_workers > self.n_envs:
            raise ConfigRefused(
                "a worker process would have no environment",
                got=f"env_workers = {self.env_workers}, n_envs = {self.n_envs}",
                expected="env_workers <= n_envs",
                do="lower --env-workers or raise --n-envs",
            )


def config_from(fields: Mapping[str, Any]) -> Config:
    """Return the configuration whose `dataclasses.asdict`, sent through JSON, is `fields`.

    Raises:
        ConfigRefused: an impossible value.
        TypeError, KeyError, ValueError: it is none.
    """
    run = dict(fields)
    td3 = dict(run.pop("td3"))
    return Config(td3=TD3Config(**{**td3, "hidden": tuple(td3["hidden"])}), **run)
