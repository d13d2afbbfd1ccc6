"""Run folders of every format so far still open: loaded, played, continued. Their bits belong to the machine they were
made on; what is looked at here does not."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import t3d
from t3d import api, sealed
from t3d.runs import checkpoints, folder

DATA = Path(__file__).parent / "data"
GOLDEN = sorted(path for path in DATA.glob("golden-*/*") if path.is_dir())


def test_there_is_one_of_every_kind():
    assert [f"{path.parent.name}/{path.name}" for path in GOLDEN] == [
        "golden-1/finished",
        "golden-1/stopped",
        "golden-2/stopped",
        "golden-3/finished",
        "golden-3/stopped",
    ]
    recorded = [sealed.unseal(path / "config.json") for path in GOLDEN]
    assert {content["format"] for content in recorded} == {folder.FORMAT}
    assert [content["engine"]["name"] for content in recorded] == ["eager", "eager", "fused", "fused", "fused"]
    assert [content["config"].get("normalize_obs") for content in recorded] == [None, None, True, True, True]
    assert ["algorithm" in content for content in recorded] == [False, False, True, True, True]
    manifests = [sealed.unseal(next(path.glob("checkpoints/*/manifest.json"))) for path in GOLDEN]
    assert [facts["format"] for facts in manifests] == [1, 1, 1, checkpoints.FORMAT, checkpoints.FORMAT]
    assert sum(file.stat().st_size for file in DATA.rglob("*") if file.is_file()) < 150_000 * len(GOLDEN)


@pytest.fixture(params=GOLDEN, ids=lambda path: f"{path.parent.name}-{path.name}")
def golden(request, tmp_path):
    return Path(shutil.copytree(request.param, tmp_path / "run"))


def test_it_is_loaded_and_played(golden):
    for which in ("best", "last"):
        policy = t3d.load(golden / "policy" / f"{which}.safetensors")
        action = policy(np.zeros((3, 4)))
        assert action.shape == (3, 1)
        assert np.isfinite(action).all()
        seen, env_steps = api.evaluate_run(golden, which)
        assert env_steps == policy.info.env_steps > 0
        assert len(seen.returns) == 2


def test_who_looks_at_a_finished_one_changes_nothing(golden):
    before = {path: path.read_bytes() for path in golden.rglob("*") if path.is_file()}
    session = api.resume(golden)
    if session.had_ended:
        now = {path: path.read_bytes() for path in golden.rglob("*") if path.is_file()}
        assert {path: now[path] for path in before} == before
        assert {path.relative_to(golden).parts[0] for path in set(now) - set(before)} <= {"lock", "tensorboard"}
    session._store.close()


def test_it_is_continued(golden):
    planned = folder.read_config(golden).config.steps
    session = api.resume(golden)
    assert session.had_ended == (session.resumed_at == planned)
    list(session.run())
    assert session.finished
    assert session.trainer.env_steps == planned
    longer = api.resume(golden, steps=planned + 50)
    assert longer.resumed_at == planned
    list(longer.run())
    assert folder.read_config(golden).config.steps == planned + 50
    assert t3d.load(golden / "policy" / "last.safetensors").info.env_steps == planned + 50
    assert t3d.reports.write_report([golden]).stat().st_size > 10_000
