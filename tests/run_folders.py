"""Run folders made by hand, for tests of reports: the numbers in them are known."""

import json

from t3d import sealed

MACHINE = {"system": "Linux", "processor": "a processor", "cores": 2, "python": "3.11", "versions": {"t3d": "0.1.0"}}


def row(kind, env_steps, **fields):
    return {"kind": kind, "env_steps": env_steps, "wall_s": env_steps / 100, **fields}


def evaluation(env_steps, value):
    return row(
        "evaluation", env_steps, returns=[value - 1, value + 1], lengths=[10, 10], return_mean=value, return_std=1.0
    )


def write_run(folder, curve, *, seed=0, env="HalfCheetah-v5", preset="td3", extra=(), steps=None, td3=(), **options):
    """Write a run whose evaluations are curve, a dict of env steps to mean return. Return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"steps": max(curve, default=100) if steps is None else steps, "seed": seed, "random_steps": 0, **options}
    fields["td3"] = {"hidden": [8, 8], "lr": 0.0003, **dict(td3)}
    config = {"format": 1, "env": env, "preset": preset, "config": fields, "machine": MACHINE}
    config["engine"] = {"name": "eager", "threads": 1, "reason": "as asked"}
    (folder / "config.json").write_bytes(sealed.seal(config))
    rows = [*(evaluation(step, value) for step, value in curve.items()), *extra]
    rows.sort(key=lambda one: one["env_steps"])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), "utf-8")
    write_checkpoint(folder)
    return folder


def write_checkpoint(folder, number=0, length=None):
    """Write what a report reads of a checkpoint that was committed when metrics.jsonl had so many bytes, or all."""
    content = (folder / "metrics.jsonl").read_bytes()[:length]
    metrics = {"bytes": len(content), "sha256": sealed.checksum(content)}
    manifest = folder / "checkpoints" / str(number) / "manifest.json"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_bytes(sealed.seal({"format": 1, "number": number, "metrics": metrics}))
    return manifest


def write_seeds(parent, finals, **options):
    """Write a parent of runs, one for each final return; each curve rises from 0 in a straight line."""
    for seed, final in enumerate(finals):
        write_run(parent / f"s{seed}", {100: 0.0, 200: final / 2, 300: final}, seed=seed, **options)
    return parent
