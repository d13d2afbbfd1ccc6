"""Make the golden run folders of this format: `python tests/data/make_golden.py` writes tests/data/golden-3/.

From the first release on they are never made again: later versions must open them as they are, or refuse their format.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from t3d import presets
from t3d.env_spec import EnvSpec
from t3d.formats import FORMAT
from t3d.runs.session import Session

GOLDEN = Path(__file__).parent / f"golden-{FORMAT}"
ENV = "InvertedPendulum-v5"
OPTIONS = {
    "n_envs": 2,
    "hidden": (8, 6),
    "normalize_obs": True,
    "batch_size": 16,
    "buffer_size": 240,  # has gone round when the run ends
    "random_steps": 100,
    "eval_every": 200,
    "eval_episodes": 2,
    "log_every": 200,
    "checkpoint_every": 150,
    "engine": "fused",
    "threads": 1,
}


def make(path: Path, steps: int, until: int | None) -> None:
    """Train in a folder, to the end or until about so many env steps, and keep what is not made from the rest."""
    session = Session(EnvSpec(ENV), presets.choose(EnvSpec(ENV), None, {**OPTIONS, "steps": steps}), path)
    rows = session.run()
    for row in rows:
        if until is not None and row["env_steps"] >= until:
            rows.close()
    for name in ("tensorboard", "lock"):
        shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink(missing_ok=True)


def main() -> None:
    """Make one that was stopped, and one that has ended."""
    make(GOLDEN / "stopped", 600, 310)
    make(GOLDEN / "finished", 330, None)


if __name__ == "__main__":
    main()
