"""A run's policy, or one on its own, exported as a controller for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from t3d.errors import ConfigRefused, RunRefused
from t3d.export import folder, hub, self_check
from t3d.export.folder import Format
from t3d.export.self_check import Checked, Probes
from t3d.formats import RunRecord
from t3d.policy.player import Floats
from t3d.policy.policy import Policy, load
from t3d.replay import NOTHING, slot_dtype
from t3d.runs import run_folder
from t3d.runs.checkpoints import Checkpoints
from t3d.runs.policies import Which, policy_of_run, recorded_in
from t3d.runs.replay_log import ReplayLog

# Of each env stream, the newest slots that observations for a check are taken from.
_NEWEST = 100_000
# Observations for a check where they are images.
_OF_IMAGES = 20


class Exported(NamedTuple):
    """What an export came to."""

    path: Path  # the folder
    checked: Checked
    notes: list[str]  # what a reader must know of it, a sentence each


def export_policy(
    path: Path,
    kind: Format,
    *,
    which: Which = "best",
    out: Path | None = None,
    force: bool = False,
    licence: str | None = None,
) -> Exported:
    """Write a policy as a controller for other programs, once that has shown that it does what the policy does.

    Args:
        path: a run folder, or a policy's file.
        kind: as what.
        which: of a run, the `best` or the `last` policy.
        out: the folder to write; None takes export/<kind> in the run folder, or <name>-<kind> beside the file.
        force: replace an export that stands there.
        licence: of a folder to share, what is granted; None grants nothing.

    Raises:
        Refused: there is no such policy, it cannot be exported, a package is missing, or the place is taken.
        ExportFailed: the export does not do what the policy does; nothing is left of it.
    """
    if path.is_dir():
        record = recorded_in(path)
        which, policy, notes = policy_of_run(path, which, record, None)
        out = out or path / "export" / kind
    else:
        record, policy, notes = None, load(path), []
        out = out or path.with_name(f"{path.stem}-{kind}")
    folder.refuse_taken(out, force=force)
    if licence is not None and kind != "hub":
        raise ConfigRefused("a licence is part of a folder to share", got=f"--format {kind}", do="give --format hub")
    files = folder.files_of(policy, kind)
    try:
        if kind == "hub":
            files |= _to_share(path, which, policy, record, licence)
        checked = folder.write(out, policy, kind, files, _probes(path, record, policy))
    except OSError as error:
        raise RunRefused("the export cannot be written", got=str(error), do="give another --out") from error
    return Exported(out, checked, notes)


def _to_share(
    run: Path, which: Which, policy: Policy, record: RunRecord | None, licence: str | None
) -> dict[str, bytes]:
    """Return the files of a folder to share, beside its model.

    Raises:
        ConfigRefused: there is only a policy, which knows nothing of its run, or a package is missing.
        OSError: a file of the run cannot be read.
    """
    if record is None:
        raise ConfigRefused("a folder to share is made of a run", got=f"a policy: {run}", do="give the run's folder")
    # SciPy, which the reports use, takes a second to import.
    from t3d.reports import read_runs, wording

    read, steps = read_runs.read(run), policy.info.env_steps
    rows = [row for row in read.rows["evaluation"] if row["env_steps"] == steps]
    facts = hub.Facts(
        returns=[float(value) for value in rows[-1]["returns"]] if rows else [],
        seed=record.config.seed,
        command=wording.command([read]),
        licence=licence,
    )
    files = {
        "policy.safetensors": run_folder.policy_path(run, which).read_bytes(),
        "config.json": (run / "config.json").read_bytes(),
    }
    film = run / "video" / f"{which}.mp4"
    if film.is_file():
        files["replay.mp4"] = film.read_bytes()
    return files | {"README.md": hub.card_of(policy, facts).encode()}


def _probes(run: Path, record: RunRecord | None, policy: Policy) -> Probes:
    """Return what to ask a controller: what was seen in training, or where that is not known, what may be seen."""
    spaces, rng, count = policy.info.spaces, np.random.default_rng(0), self_check.OBSERVATIONS
    if spaces.view is not None:
        looks = rng.standard_normal((_OF_IMAGES, spaces.seen_size), np.float32)
        looks[:, : spaces.pixels] = rng.integers(0, 256, (_OF_IMAGES, spaces.pixels))
        return self_check.probes_of(looks, "pixels at random")
    size = spaces.obs_size
    seen = None if record is None else _observations(run, record, policy)
    if seen is not None and len(seen):
        chosen = rng.choice(len(seen), min(count, len(seen)), replace=False)
        return self_check.probes_of(seen[np.sort(chosen)], "observations of the run's replay memory")
    drawn = rng.standard_normal((count, size))
    if policy.statistics is None:
        return self_check.probes_of(drawn.astype(np.float32), "drawn from a standard normal distribution")
    mean, std = policy.statistics
    return self_check.probes_of((mean + std * drawn).astype(np.float32), "drawn by the policy's own mean and deviation")


def _observations(run: Path, record: RunRecord, policy: Policy) -> Floats | None:
    """Return the newest observations (N, S) that the run has on disk; None if they cannot be read."""
    config, slot = record.config, slot_dtype(policy.info.spaces)
    try:
        newest = Checkpoints(run / "checkpoints").find(lambda *_: None)[0][1]
        log = ReplayLog(run / "replay", record.run, slot, config.n_envs, config.slots_per_env)
        rows = log.open(newest.replay, [max(0, written - 1 - _NEWEST) for written in newest.trainer.written])
    except (RunRefused, OSError, IndexError):  # the check then says that its observations are drawn
        return None
    return np.concatenate([part["obs"][part["ended"] != NOTHING] for part in rows])
