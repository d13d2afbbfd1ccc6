"""Run folders of this format still open: loaded, played, continued; those of another are refused by one sentence. Their
bits belong to the machine they were made on; what is looked at here does not."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from sealing import reseal, said

import t3d
from t3d import api
from t3d.cli.main import run as command
from t3d.formats import FORMAT
from t3d.runs import run_folder

DATA = Path(__file__).parent / "data"
GOLDEN = sorted(path for path in DATA.glob(f"golden-{FORMAT}/*") if path.is_dir())


def test_there_is_one_that_was_stopped_and_one_that_has_ended():
    assert [path.name for path in GOLDEN] == ["finished", "stopped"]
    assert [said(path / "config.json")["format"] for path in GOLDEN] == [FORMAT, FORMAT]
    assert sum(file.stat().st_size for file in DATA.rglob("*") if file.is_file()) < 150_000 * len(GOLDEN)


@pytest.fixture(params=GOLDEN, ids=lambda path: path.name)
def golden(request, tmp_path):
    return Path(shutil.copytree(request.param, tmp_path / "run"))


def test_it_is_loaded_and_played(golden):
    for which in ("best", "last"):
        policy = t3d.load(golden / "policy" / f"{which}.safetensors")
        action = policy(np.zeros((3, 4)))
        assert action.shape == (3, 1)
        assert np.isfinite(action).all()
        seen, _, env_steps, *_ = api.evaluate_run(golden, which)
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
    planned = run_folder.read_config(golden).config.steps
    session = api.resume(golden)
    assert session.had_ended == (session.resumed_at == planned)
    list(session.run())
    assert session.finished
    assert session.trainer.env_steps == planned
    longer = api.resume(golden, steps=planned + 50)
    assert longer.resumed_at == planned
    list(longer.run())
    assert run_folder.read_config(golden).config.steps == planned + 50
    assert t3d.load(golden / "policy" / "last.safetensors").info.env_steps == planned + 50
    assert t3d.reports.write_report([golden]).stat().st_size > 10_000


@pytest.mark.parametrize("version", [1, 2, FORMAT + 1])
def test_another_format_is_refused_by_one_sentence(golden, version, capsys):
    reseal(golden / "config.json", format=version, new="in that version")
    before = {path: path.read_bytes() for path in golden.rglob("*") if path.is_file()}
    for words in (["resume"], ["evaluate"], ["video"], ["report"]):
        assert command([*words, str(golden)]) == 2
        err = " ".join(capsys.readouterr().err.split())
        assert "this is of a format that this version of t3d does not read" in err
        assert f"config.json: format {version}" in err
        assert f"expected: format {FORMAT}" in err
    assert {path: path.read_bytes() for path in golden.rglob("*") if path.is_file()} == before
