"""Train the policy that tests/test_deploy.py lets hold up a pendulum in C: python tests/data/make_pendulum.py."""

import shutil
import tempfile
from pathlib import Path

import t3d

with tempfile.TemporaryDirectory() as made:
    run = t3d.train("Pendulum-v1", steps=20_000, seed=0, threads=1, video=False, out=Path(made) / "run")
    shutil.copy(run.path / "policy" / "best.safetensors", Path(__file__).with_name("pendulum.safetensors"))
