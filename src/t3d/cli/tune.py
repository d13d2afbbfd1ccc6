"""`t3d tune`."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from t3d.cli.environment import EnvArguments
from t3d.cli.parsing import counted, decisive, is_given, parse
from t3d.config import Config, refuse_before_it_learns
from t3d.errors import ConfigRefused


@dataclass(frozen=True, kw_only=True)
class Arguments(EnvArguments):
    """Search for better options, race the trials, and hold the best against the default on fresh seeds.

    The same command goes on with what it began, after whatever ended it; given in several terminals or on several
    machines that share the folder, they search together. Options that are not searched stand behind ENV, as for
    `t3d train`; --eval-every is a twentieth of --steps if left out.
    """

    env: tyro.conf.Positional[str]
    """A registered id, module:Name, or path/to/file.py:Name, as for `t3d train`."""
    trials: int = 60
    """How many sets of options are tried."""
    seeds: int = 3
    """Seeds of a trial that plays on: the better half does. The best three play on to eight."""
    space: str | None = None
    """What is searched: td3, td7, both, or a file.toml of your own; the algorithm's if left out."""
    confirm: int = 10
    """Fresh seeds on which the best options are held against the default; 0 leaves that out."""
    preset: str | None = None
    """Named set of options, or a file.toml of them, that the search begins from; the environment's own if left out."""
    jobs: int | None = None
    """How many runs at a time; as many as this process may use cores if left out."""
    on: str = "local"
    """Where: local; ray, a cluster that is started here; or ray:HOST:PORT, one that this machine is one of. There,
    --jobs says how many runs it shall have at a time."""
    out: Path | None = None
    """The study's folder; runs/ENV/tune-HASH if left out, with the same hash for the same study."""
    config: Config = field(default_factory=Config)
    """Options of every run."""


def main(arguments: list[str]) -> None:
    """Search, saying on stderr how it goes, and print what was found."""
    given = parse(Arguments, "tune", arguments)
    env = given.spec(given.env)

    from t3d import api

    chosen = api.choose(env, given.preset, decisive(given.config))
    args = parse(Arguments, "tune", arguments, dataclasses.replace(given, config=chosen.config))
    config = args.config
    if not is_given("--eval-every", arguments):
        config = config.with_values({"eval_every": max(1, config.steps // 20)})
    config.check_together()
    if not is_given("--random-steps", arguments):
        refuse_before_it_learns(config)
    for name in ("trials", "seeds", "jobs"):
        if (count := getattr(args, name)) is not None:
            api.refuse_below_one(name, count)
    if args.confirm < 0:
        raise ConfigRefused("confirm is impossible", got=f"confirm = {args.confirm}", expected="0 or above")

    from t3d.machine import usable_cores
    from t3d.tuning import space, study

    study.refuse_without_optuna()
    searched = space.read(args.space or config.algorithm, config)
    for option in searched:
        flag = f"--{option.name.replace('_', '-')}"
        if is_given(flag, arguments):
            raise ConfigRefused(
                f"{option.name} is given and searched at once",
                got=flag,
                do="leave it out, or write a --space without it",
            )
    record = study.describe(env, chosen.preset, config, searched, args.seeds)
    folder = args.out or Path("runs") / env.folder / f"tune-{_hash(record)}"
    # A draw learns from the trials before it: on a cluster there are no more of them at once than here, if nobody asks.
    asked = args.jobs or (None if args.on == "local" else usable_cores())
    jobs, here = api.side_by_side(asked, args.trials * args.seeds, config, args.on)
    api.plan_study(env, config, here, folder)
    print(
        f"{env.title}, preset {chosen.preset}: {counted(args.trials, 'trial')} of {config.steps:,} steps, "
        f"{len(searched)} options, {jobs} at a time\nfolder {folder}",
        file=sys.stderr,
    )
    found = api.tune(folder, record, trials=args.trials, confirm=args.confirm, jobs=jobs, say=_say, on=args.on)
    print(found or "another process of this study brings it to its end")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _hash(record: object) -> str:
    """Return what names a study: equal for the same environment, options, space and seeds."""
    import msgspec

    return hashlib.sha256(msgspec.json.encode(record)).hexdigest()[:8]
