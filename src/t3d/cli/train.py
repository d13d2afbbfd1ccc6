"""`t3d train`."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from t3d.cli.algorithm import own_in
from t3d.cli.environment import EnvArguments
from t3d.cli.parsing import counted, decisive, is_given, parse
from t3d.cli.track import beside
from t3d.config import Config, refuse_before_it_learns
from t3d.errors import ConfigRefused, Failed, printable

if TYPE_CHECKING:
    from t3d.runs.session import Session


@dataclass(frozen=True, kw_only=True)
class Arguments(EnvArguments):
    """Train a TD3 policy in an environment and keep everything in a run folder."""

    env: tyro.conf.Positional[str]
    """A registered id, module:Name (an id that it registers, a class, or a function), or path/to/file.py:Name."""
    preset: str | None = None
    """Named set of options, or a file.toml of them; the environment's own if left out."""
    out: Path | None = None
    """The run folder; runs/ENV/PRESET-sSEED if left out."""
    seeds: int | None = None
    """Train so many seeds, from --seed on, in processes of their own; the folder is their parent."""
    jobs: int | None = None
    """How many of them at a time; as many as this process may use cores if left out."""
    on: str = "local"
    """Where seeds are trained: local, in processes of this machine; ray, a cluster that is started on it; or
    ray:HOST:PORT, one that runs, and that this machine is one of. Both need the extra ray."""
    resume: Literal["no", "auto"] = "no"
    """auto: continue the run in that folder if there is one; a finished one prints its result."""
    algorithm_changed: bool = False
    """With --resume auto: the class may be written otherwise than what has trained; the run is not exact from there."""
    video: bool = True
    """Film the best policy at the end, and the last one where it is another; never of hardware."""
    video_frames: int = 300
    """Frames of each video, at most."""
    track: Literal["wandb", "mlflow"] | None = None
    """Send its numbers to Weights & Biases or MLflow, from a process of its own, as `t3d track` does."""
    config: Config = field(default_factory=Config)
    """Options of the run."""


def main(arguments: list[str]) -> None:
    """Train, showing progress on stderr and the result on stdout."""
    # The flags' defaults depend on the environment and the preset, so these two are read first.
    own, arguments = own_in(arguments)
    given = parse(Arguments, "train", arguments)
    env = given.spec(given.env)

    from t3d import api

    chosen = api.choose(env, given.preset, decisive(given.config))
    parsed = parse(Arguments, "train", arguments, dataclasses.replace(given, config=chosen.config))
    choice = chosen._replace(config=parsed.config)
    parsed.config.check_together()
    if not is_given("--random-steps", arguments):
        refuse_before_it_learns(parsed.config)

    from t3d.runs.session import Session

    for name in ("video_frames", "seeds", "jobs"):
        if (count := getattr(parsed, name)) is not None:
            api.refuse_below_one(name, count)
    if parsed.track is not None:
        from t3d.tracking.follow import refuse_without

        refuse_without(parsed.track)
    if parsed.seeds is None and parsed.on != "local":
        raise ConfigRefused(
            "a cluster trains seeds, in processes of their own", got=f"on = {parsed.on}", do="give --seeds, or no --on"
        )
    if parsed.seeds is not None:
        from t3d.cli import seeds

        jobs, here = api.side_by_side(parsed.jobs, parsed.seeds, choice.config, parsed.on)
        frames = parsed.video_frames if parsed.video and not choice.config.hardware else None
        planned = api.plan_seeds(
            env,
            choice,
            parsed.seeds,
            here,
            parsed.out,
            resume=parsed.resume == "auto",
            algorithm=own,
            algorithm_changed=parsed.algorithm_changed,
        )
        seeds.main(env, choice, planned, jobs, frames, own, parsed.track, parsed.on)
        return
    session = Session(
        env,
        choice,
        parsed.out,
        resume=parsed.resume == "auto",
        algorithm=own,
        algorithm_changed=parsed.algorithm_changed,
    )
    with beside(session.path, parsed.track):
        run_to_the_end(session, video=parsed.video, video_frames=parsed.video_frames)


def run_to_the_end(session: Session, *, video: bool, video_frames: int) -> None:
    """Train, film and print, as `t3d train` and `t3d resume` do."""
    from t3d import api
    from t3d.runs.live_line import watch

    # A folder that came from a stranger may name its preset and engine in escape sequences.
    print(printable(_opening(session)), file=sys.stderr)
    try:
        watch(session)
    except (Failed, KeyboardInterrupt):
        print(_stopped(session), file=sys.stderr)
        raise
    if video and not session.had_ended and not session.config.hardware:
        print("filming the best and the last policy ...", file=sys.stderr)
    print(api.finish(session, video=video, video_frames=video_frames))


def _opening(session: Session) -> str:
    import torch

    trainer, config = session.trainer, session.config
    spaces, engine = trainer.envs.spaces, trainer.learner.chosen
    replay_mb = trainer.replay.full_bytes / 1e6
    lines = [
        f"{session.env.title}: {spaces.sight_in_words}, {counted(spaces.action_size, 'action')}",
        f"preset {session.choice.preset} ({session.choice.reason}), seed {config.seed}",
        f"replay {config.buffer_size:,} slots, {replay_mb:,.0f} MB when full",
        f"engine {engine.name} ({engine.reason}), {counted(trainer.learner.threads, 'thread')}, "
        f"{config.device}, PyTorch {torch.__version__}",
        f"folder {session.path}",
    ]
    if session.had_ended:
        lines.append("this run has ended; here is its result")
    elif session.resumed_at is not None:
        lines.append(f"resumed at env step {session.resumed_at:,}")
    if not config.will_learn:
        lines.append("this run will not learn: its random steps are all it has, or no updates were asked for")
    return "\n".join(lines)


def _stopped(session: Session) -> str:
    from t3d.address import address_of
    from t3d.runs.run_folder import policy_path
    from t3d.variants.contract import OURS

    last = policy_path(session.path, "last")
    kept = f"its last policy is {last}" if last.is_file() else f"its numbers are in {session.path}"
    own = [] if session.algorithm in OURS.values() else ["--algorithm", address_of(session.algorithm)]
    parts = "t3d resume", shlex.quote(str(session.path)), session.env.command_words, shlex.join(own)
    go_on = " ".join(part for part in parts if part)
    if not session.env.is_named:
        go_on = 't3d.train(the same function, resume="auto", out=the same folder)'
    return f"stopped after {session.trainer.env_steps:,} env steps; {kept}\nto go on: {go_on}"
