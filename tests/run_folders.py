"""Run folders made by hand, for tests of reports: the numbers in them are known."""

import hashlib
import json

from t3d.config import Config
from t3d.env_spec import EnvSpec
from t3d.formats import (
    Engine,
    EnvsState,
    FileState,
    Machine,
    Manifest,
    MetricsState,
    ObsPart,
    ProgressState,
    ReplayState,
    RunRecord,
    SegmentState,
    TrainerState,
    run_id,
)
from t3d.storage import checked_files
from t3d.storage.row_lines import as_line

MACHINE = Machine("Linux", "a processor", 2, "3.11", {"t3d": "0.1.0"})
ENGINE = Engine("eager", 1, "as asked")


def row(kind, env_steps, **fields):
    return {"kind": kind, "env_steps": env_steps, "wall_s": env_steps / 100, **fields}


def evaluation(env_steps, value):
    return row(
        "evaluation", env_steps, returns=[value - 1, value + 1], lengths=[10, 10], return_mean=value, return_std=1.0
    )


def episode(env_steps, value):
    return row("episode", env_steps, env=0, length=10, end="truncated", **{"return": value})


def write_run(
    folder, curve, *, seed=0, env="HalfCheetah-v5", preset="td3", extra=(), steps=None, machine=MACHINE, **options
):
    """Write a run whose evaluations are curve, a dict of env steps to mean return. Return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {"steps": max(curve, default=100) if steps is None else steps, "seed": seed, "random_steps": 0}
    config = Config().with_values({"hidden": (8, 8), "lr": 0.0003, **given, **options})
    record = RunRecord(
        run=run_id(EnvSpec(env), "TD3", config),
        env=env,
        env_kwargs={},
        wrappers=(),
        pixels=False,
        drawn_by="",
        preset=preset,
        algorithm="TD3",
        sources=(),
        obs=(ObsPart(shape=(4,)),),
        period_s=None,
        config=config,
        engine=ENGINE,
        machine=machine,
    )
    (folder / "config.json").write_bytes(checked_files.encode(record))
    rows = sorted(
        [*(evaluation(step, value) for step, value in curve.items()), *extra], key=lambda one: one["env_steps"]
    )
    write_rows(folder, [row("run", 0, run=record.run), *rows])
    write_checkpoint(folder)
    return folder


def write_rows(folder, rows):
    """Write rows as a run does."""
    content, crc = b"", 0
    for one in rows:
        line, crc = as_line(one, crc)
        content += line
    (folder / "metrics.jsonl").write_bytes(content)


def rows_of(folder):
    """Return the rows of a run without their checksums."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in one.items() if name != "crc32"} for one in rows]


def write_checkpoint(folder, number=0, length=None):
    """Write the manifest of a checkpoint that was committed when metrics.jsonl had so many bytes, or all."""
    content = (folder / "metrics.jsonl").read_bytes()[:length]
    sha256 = hashlib.sha256(content).hexdigest()
    manifest = Manifest(
        run=checked_files.read(folder / "config.json", RunRecord).run,
        number=number,
        state=FileState(0, sha256),
        metrics=MetricsState(len(content), sha256, 1.0),
        replay=ReplayState(1, [SegmentState(0, sha256, "00000000.rows", [0])]),
        trainer=TrainerState(0, 0, {}, EnvsState(0, [0], [0.0], [0]), [1]),
        progress=ProgressState(None, -1, None, 0, "current", [], 0, 0, -1, 0),
    )
    path = folder / "checkpoints" / str(number) / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(checked_files.encode(manifest))
    return path


def write_seeds(parent, finals, **options):
    """Write a parent of runs, one for each final return; each curve rises from 0 in a straight line."""
    for seed, final in enumerate(finals):
        write_run(parent / f"s{seed}", {100: 0.0, 200: final / 2, 300: final}, seed=seed, **options)
    return parent
