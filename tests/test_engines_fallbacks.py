"""The fused engine where something is missing: PyTorch's own matrix product, or a folder for compiled code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import t3d

TESTS = Path(__file__).parent

OPENBLAS = f"""
import sys, torch
sys.path.insert(0, {str(TESTS)!r})
torch_file, torch.__file__ = torch.__file__, "/nowhere/torch/__init__.py"
from t3d.engines import blas_and_threads
torch.__file__ = torch_file
import numpy as np, test_engines as t
assert blas_and_threads.blas == "OpenBLAS of scipy", blas_and_threads.blas
for threads in (1, 2):
    agent, eager = (t.make_agent(dtype=torch.float64) for _ in range(2))
    engine = t.Fused(agent, threads)
    for seed in range(20):
        batch, noise = t.make_batch(seed, dtype=np.float64)
        engine.update(batch, noise)
        eager.update(batch, noise)
    t.assert_close(agent, eager, 1e-9)
print(t.choose.choose("fused", t.make_agent(), 1).reason)
"""


@pytest.mark.slow
def test_without_pytorchs_own_product_scipys_is_used_and_gives_the_same_numbers():
    ran = subprocess.run([sys.executable, "-c", OPENBLAS], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "matrix products by OpenBLAS of scipy"


UPDATES = """
import sys, hashlib
sys.path.insert(0, sys.argv[1])
import test_engines as t
agent = t.make_agent()
engine = t.Fused(agent)
for seed in range(10):
    engine.update(*t.make_batch(seed))
print(hashlib.sha256(engine._numbers.weights.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_where_no_cache_folder_can_be_written_it_compiles_anew_and_says_so(tmp_path):
    # Root may write anywhere, so the places for the cache are taken by files.
    shutil.copytree(Path(t3d.__file__).parent, tmp_path / "t3d", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "t3d" / "engines" / "__pycache__").write_text("")
    taken = tmp_path / "taken"
    taken.write_text("")
    places = {name: str(taken / "cache") for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA")}
    env = os.environ | places | {"PYTHONPATH": str(tmp_path), "HOME": str(taken), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", UPDATES, str(TESTS)]
    without = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert without.returncode == 0, without.stderr
    assert "not kept, as" in without.stderr
    kept = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert without.stdout == kept.stdout != ""
