"""A flipped bit in what all checkpoints rest on: the run is resumed, every file is as it was, and it ends the same."""

import json
import logging
import shutil

import numpy as np
import pytest
from small_runs import PROBE, train

import t3d
from t3d import api, sealed
from t3d.cli.main import run as command
from t3d.reports import write_report
from t3d.runs import disk
from t3d.runs import folder as run_folder
from t3d.runs.progress import Progress

STEPS = 90


def content(folder, *but):
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name.partition("/")[0] not in ("lock", *but)}


def weights(session):
    return {name: tensor.numpy().tobytes() for name, tensor in session.trainer.agent.tensors().items()}


class Stopped:
    """A run stopped after 58 steps, and the same one never stopped."""

    def __init__(self, path):
        self.path = path / "run"
        self.expected = weights(train(path / "whole", steps=STEPS))
        train(self.path)
        # Written by the first checkpoint, long before the two that are kept.
        assert sorted(file.name for file in (self.path / "checkpoints").iterdir()) == ["50", "58"]
        self.old = {
            "config.json": 300,
            "metrics.jsonl": 40,
            "metrics.copy": 40,
            "replay/00000000.rows": 200,  # a slot of the first block
            "policy/best.safetensors": 300,
            "policy/best.json": 60,
        }


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    return Stopped(tmp_path_factory.mktemp("stopped"))


def flip(run, name, at):
    file = run / name
    damaged = bytearray(file.read_bytes())
    damaged[at] ^= 4
    file.write_bytes(damaged)


def is_about(text, name):
    return name.rpartition("/")[2].partition(".")[0] in text


NAMES = ("config.json", "metrics.jsonl", "replay/00000000.rows", "policy/best.safetensors", "policy/best.json")


@pytest.mark.parametrize("name", [*NAMES, "metrics.copy"])
def test_a_bit_flipped_in_an_old_byte_costs_nothing(stopped, name, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(stopped.path, run)
    before = content(run)
    flip(run, name, stopped.old[name])
    with caplog.at_level(logging.WARNING, "t3d"):
        session = train(run, steps=STEPS, resume=True, until=58)
    assert session.resumed_at == 58
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    said = [
        row["what"] for row in rows if row["kind"] == "event" and ("parity" in row["what"] or "copy" in row["what"])
    ]
    assert len(said) == 1
    assert is_about(said[0], name)
    assert said[0] in caplog.text
    now = content(run)
    if name == "config.json":
        assert sealed.unseal(run / name)["config"]["steps"] == STEPS
    else:
        assert now[name][: len(before[name])] == before[name]
    assert now["metrics.copy"].startswith(before["metrics.copy"])
    assert not list(run.rglob("*.new"))
    ended = train(run, steps=STEPS, resume=True)
    assert weights(ended) == stopped.expected


@pytest.mark.parametrize("name", [*NAMES, "policy/last.safetensors", "policy/last.json"])
def test_a_finished_run_is_mended_by_who_looks_at_it(stopped, name, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(stopped.path, run)
    before = content(run, "tensorboard")
    flip(run, name, stopped.old.get(name, 60))
    with caplog.at_level(logging.WARNING, "t3d"):
        session = api.resume(run, env=PROBE)
    assert session.had_ended
    session._store.close()
    assert len(caplog.records) == 1
    assert is_about(caplog.text, name)
    assert content(run, "tensorboard") == before
    caplog.clear()
    with caplog.at_level(logging.WARNING, "t3d"):
        api.resume(run, env=PROBE)._store.close()
    assert caplog.text == ""


def test_every_old_bit_of_the_memory_comes_back(stopped, tmp_path):
    """Flip after flip, each mended before the next."""
    run, rng = tmp_path / "run", np.random.default_rng(0)
    shutil.copytree(stopped.path, run)
    file = run / "replay" / "00000000.rows"
    whole = file.read_bytes()
    for at in rng.choice(len(whole), 40, replace=False):
        flip(run, "replay/00000000.rows", at)
        assert file.read_bytes() != whole
        api.resume(run, env=PROBE)._store.close()
        assert file.read_bytes() == whole, at


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "metrics.copy", "policy/best.json"])
def test_a_file_that_is_gone_is_there_again(stopped, name, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stopped.path, run)
    before = content(run, "tensorboard")
    (run / name).unlink()
    ended = train(run, steps=STEPS, resume=True)
    assert weights(ended) == stopped.expected
    now = content(run)
    assert now["metrics.copy"] == now["metrics.jsonl"]
    assert now["metrics.jsonl"].startswith(before["metrics.jsonl"])
    assert sealed.unseal(run / "config.json") == sealed.unseal(stopped.path / "config.json") | {
        "config": {**sealed.unseal(stopped.path / "config.json")["config"], "steps": STEPS}
    }
    assert t3d.load(run).info.env_steps in (20, 40, 58, 60, 80, 90)


@pytest.mark.parametrize("name", ["config.json", "policy/best.safetensors", "metrics.jsonl", "replay/00000000.rows"])
def test_a_file_that_cannot_be_read_is_not_taken_for_damaged(stopped, name, tmp_path, monkeypatch):
    """A read error may pass: nothing is replaced because of it."""
    run = tmp_path / "run"
    shutil.copytree(stopped.path, run)
    before = content(run)
    path_open = type(run).open

    def failing(path, *arguments, **named):
        if path == run / name:
            raise OSError(5, "Input/output error", str(path))
        return path_open(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(type(run), "open", failing)
        with pytest.raises(t3d.Refused, match="Input/output error"):
            train(run, steps=STEPS, resume=True)
    now = content(run)
    assert {file: now[file] for file in before if file != "config.json"} == {
        file: before[file] for file in before if file != "config.json"
    }
    assert weights(train(run, steps=STEPS, resume=True)) == stopped.expected


def test_the_last_policy_is_not_called_written_where_it_was_not(stopped, tmp_path, monkeypatch, caplog):
    run = tmp_path / "run"
    shutil.copytree(stopped.path, run)
    flip(run, "policy/last.safetensors", 60)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "_write_all", lambda file, content: disk.os.write(-1, b""))
        with pytest.raises(t3d.Refused, match="nothing that is needed was removed"):
            api.resume(run, env=PROBE)
    assert "written again" not in caplog.text


def test_a_disk_that_is_full_leaves_what_is_to_be_mended_as_it_was(stopped, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(stopped.path, run)
    flip(run, "replay/00000000.rows", 200)
    before = content(run)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "_write_all", lambda file, content: disk.os.write(-1, b""))
        with pytest.raises(t3d.Refused, match="nothing that is needed was removed"):
            train(run, steps=STEPS, resume=True)
    assert content(run) == before
    assert weights(train(run, steps=STEPS, resume=True)) == stopped.expected


def test_config_json_and_its_copies_damaged_is_refused(stopped, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stopped.path, run)
    for name in ("config.json", "checkpoints/50/manifest.json", "checkpoints/58/manifest.json"):
        flip(run, name, 300)
    with pytest.raises(t3d.Refused, match=r"config\.json"):
        api.resume(run, env=PROBE)


def test_rows_and_their_copy_damaged_is_refused(stopped, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stopped.path, run)
    for name in ("metrics.jsonl", "metrics.copy"):
        flip(run, name, 40)
    before = content(run)
    with pytest.raises(t3d.Refused, match=r"metrics\.jsonl"):
        api.resume(run, env=PROBE)
    assert content(run) == before


def test_who_only_reads_takes_the_copy_of_config_json_and_says_so(stopped, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(stopped.path, run)
    expected = api.evaluate_run(run, "best", env=PROBE)
    flip(run, "config.json", 300)
    before = content(run)
    with caplog.at_level(logging.WARNING, "t3d"):
        assert api.evaluate_run(run, "best", env=PROBE) == expected
    assert "copy of config.json" in caplog.text
    assert content(run) == before


@pytest.mark.parametrize("name", ["metrics.copy", "config.json"])
def test_a_copy_that_is_gone_is_missed_in_a_finished_run(stopped, name, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(stopped.path, run)
    before = content(run, "tensorboard")
    (run / name).unlink()
    with caplog.at_level(logging.WARNING, "t3d"):
        api.resume(run, env=PROBE)._store.close()
    assert name in caplog.text
    assert content(run, "tensorboard") == before


def test_a_report_misses_no_seed_whose_config_json_is_gone(stopped, tmp_path):
    for seed in ("s0", "s1"):
        shutil.copytree(stopped.path, tmp_path / "all" / seed)
    (tmp_path / "all" / "s1" / "config.json").unlink()
    with pytest.raises(t3d.Refused, match=r"s1/config\.json(.|\n)*t3d resume"):
        write_report([tmp_path / "all"])


def test_rows_before_which_nothing_vouches_do_not_hide_a_run(stopped, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stopped.path, run)
    shutil.rmtree(run / "checkpoints")
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(t3d.Refused, match=r"metrics\.jsonl cannot be read"):
        train(run, resume=True)
    assert (run / "policy" / "best.safetensors").is_file()


def test_a_foreign_best_policy_is_not_taken_into_checkpoints(tmp_path):
    golden = run_folder.Path(__file__).parent / "data"
    run = shutil.copytree(golden / "golden-1" / "stopped", tmp_path / "run")
    other = train(tmp_path / "other").path
    for name in ("best.safetensors", "best.json"):
        shutil.copyfile(other / "policy" / name, run / "policy" / name)
    session = api.resume(run)
    assert session._store._best == {}
    session._store.close()


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_a_report_says_what_mends_its_run(stopped, name, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(stopped.path, run)
    flip(run, name, stopped.old[name])
    assert command(["report", str(run)]) == 2
    assert f"t3d resume {run}" in " ".join(capsys.readouterr().err.split())
    api.resume(run, env=PROBE)._store.close()
    assert write_report([run]).stat().st_size > 10_000


def test_a_run_of_the_first_format_gets_its_copies_with_its_next_checkpoint(tmp_path):
    golden = run_folder.Path(__file__).parent / "data" / "golden-1" / "stopped"
    run = shutil.copytree(golden, tmp_path / "run")
    assert not (run / "metrics.copy").exists()
    list(api.resume(run).run())
    assert (run / "metrics.copy").read_bytes() == (run / "metrics.jsonl").read_bytes()
    before = content(run, "tensorboard")
    flip(run, "config.json", 300)
    flip(run, "metrics.jsonl", 40)
    flip(run, "policy/best.safetensors", 300)
    api.resume(run)._store.close()
    assert content(run, "tensorboard") == before


def test_the_best_policy_of_a_run_of_the_first_format_gets_its_copy_though_none_is_better(tmp_path, monkeypatch):
    golden = run_folder.Path(__file__).parent / "data" / "golden-1" / "stopped"
    run = shutil.copytree(golden, tmp_path / "run")
    best = (run / "policy" / "best.safetensors").read_bytes()
    monkeypatch.setattr(Progress, "evaluated", lambda *_: False)
    rows = api.resume(run).run()
    next(rows)
    rows.close()
    flip(run, "policy/best.safetensors", 300)
    api.resume(run)._store.close()
    assert (run / "policy" / "best.safetensors").read_bytes() == best
