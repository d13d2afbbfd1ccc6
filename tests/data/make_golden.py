"""Make the golden run folders of this version: `python tests/data/make_golden.py` writes tests/data/golden-<format>/.

Once a version is released its folders are never made again: later versions must open them as they are.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from t3d import presets
from t3d.runs import folder
from t3d.runs.session import Session

HERE = Path(__file__).parent
ENV = "InvertedPendulum-v5"
OPTIONS = {
    "n_envs": 2,
    "hidden": (8, 6),
    "layer_norm": "critic",
    "batch_size": 16,
    "buffer_size": 240,  # has gone round when the run ends
    "random_steps": 100,
    "eval_every": 200,
    "eval_episodes": 2,
    "log_every": 200,
    "checkpoint_every": 150,
    "engine": "eager",
    "threads": 1,
}


def make(path: Path, steps: int, until: int | None) -> None:
    """Train in a folder, to the end or until about so many env steps, and keep what is not made from the rest."""
    session = Session(ENV, presets.choose(ENV, None, {**OPTIONS, "steps": steps}), path)
    rows = session.run()
    for row in rows:
        if until is not None and row["env_steps"] >= until:
            rows.close()
    for name in ("tensorboard", "lock"):
        shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink(missing_ok=True)


def main() -> None:
    """Make both."""
    golden = HERE / f"golden-{folder.FORMAT}"
    shutil.rmtree(golden, ignore_errors=True)
    make(golden / "finished", 400, None)
    make(golden / "stopped", 600, 310)


if __name__ == "__main__":
    main()
