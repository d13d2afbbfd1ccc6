"""What a resumed run finds and leaves on the disk: what lies behind its checkpoint, a newer format, a finished run."""

import json
import logging
from pathlib import Path

import pytest
import small_runs
from small_runs import PROBE, train

from t3d import api, sealed
from t3d.cli.main import run as command
from t3d.errors import FormatRefused
from t3d.runs import checkpoints
from t3d.runs.session import Session


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_wall_times(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "wall_s"} for row in rows]


# ---- What lies behind the checkpoint


def gone_at(folder, env_steps, **options):
    """Train until so many env steps and vanish as a killed process does: nothing is saved on the way out."""
    session = Session(PROBE, small_runs.choice(**options), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "_stop", lambda why: None)
        rows = session.run()
        for row in rows:
            if row["env_steps"] >= env_steps:
                rows.close()
    return session


def position(run):
    """Return what the newest checkpoint says of metrics.jsonl and the replay memory's files."""
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    facts = json.loads((newest / "manifest.json").read_text())
    segments = {segment["name"]: segment["bytes"] for segment in facts["replay"]["segments"]}
    return facts["metrics"]["bytes"], segments, facts


def sizes(run):
    return {path.name: path.stat().st_size for path in (run / "replay").iterdir()}


def test_rows_behind_the_checkpoint_are_cut_and_written_once(tmp_path):
    train(tmp_path / "whole")
    gone_at(tmp_path / "run", 48)
    length, _, facts = position(tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert facts["envs"]["env_steps"] < 48
    assert before[length:].count(b"\n") > 3
    session = Session(PROBE, small_runs.choice(), tmp_path / "run", resume=True)
    now = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert now[:length] == before[:length]
    assert [json.loads(line)["kind"] for line in now[length:].splitlines()] == ["event"]
    list(session.run())
    rows = without_wall_times(tmp_path / "run")
    assert [row for row in rows if row["kind"] != "event"] == without_wall_times(tmp_path / "whole")


@pytest.mark.parametrize("segment_bytes", [1 << 20, 300], ids=["in its segment", "in segments of their own"])
def test_slots_behind_the_checkpoint_are_cut(tmp_path, monkeypatch, segment_bytes):
    monkeypatch.setattr("t3d.runs.replaylog._SEGMENT_BYTES", segment_bytes)
    whole = train(tmp_path / "whole").trainer.agent.tensors()
    with monkeypatch.context() as patch:
        # The slots reach the disk, the checkpoint that would tell of them does not.
        commit = checkpoints.commit

        def failing(folder, env_steps, tensors, facts):
            if env_steps > 30:
                raise OSError("the disk is gone")
            return commit(folder, env_steps, tensors, facts)

        patch.setattr(checkpoints, "commit", failing)
        gone_at(tmp_path / "run", 56)
    _, told, _ = position(tmp_path / "run")
    assert sum(sizes(tmp_path / "run").values()) > sum(told.values())
    session = Session(PROBE, small_runs.choice(), tmp_path / "run", resume=True)
    assert sizes(tmp_path / "run") == told
    list(session.run())
    ended = session.trainer.agent.tensors()
    assert {k: v.numpy().tobytes() for k, v in ended.items()} == {k: v.numpy().tobytes() for k, v in whole.items()}


def test_a_run_whose_memory_went_round_comes_back(tmp_path, monkeypatch):
    # Segments of many checkpoints, the first of them removed, and the oldest that is left still needed.
    monkeypatch.setattr("t3d.runs.replaylog._SEGMENT_BYTES", 1500)
    options = {"buffer_size": 60, "steps": 200, "checkpoint_every": 10, "batch_size": 4}
    whole = train(tmp_path / "whole", **options).trainer.agent.tensors()
    gone_at(tmp_path / "run", 150, **options)
    _, told, _ = position(tmp_path / "run")
    assert min(sizes(tmp_path / "run")) > "00000000.rows"
    assert min(told) < min(sizes(tmp_path / "run"))  # one more is told of than there is
    session = Session(PROBE, small_runs.choice(**options), tmp_path / "run", resume=True)
    list(session.run())
    ended = session.trainer.agent.tensors()
    assert {k: v.numpy().tobytes() for k, v in ended.items()} == {k: v.numpy().tobytes() for k, v in whole.items()}


def test_rows_behind_the_end_are_cut(tmp_path):
    """No row of a finished run that is looked at would ever be written over them."""
    train(tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    before = file.read_bytes()
    file.write_bytes(before + before.splitlines(keepends=True)[-1])
    train(tmp_path / "run", resume=True)
    assert file.read_bytes() == before


# ---- A finished run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    arguments = ["--steps", "120", "--random-steps", "50", "--eval-every", "60", "--eval-episodes", "1"]
    arguments += ["--hidden", "8", "--threads", "1", "--engine", "eager", "--video-frames", "3", "--out", str(run)]
    arguments = ["train", "InvertedPendulum-v5", *arguments, "--resume", "auto"]
    assert command(arguments) == 0
    return run, arguments


@pytest.mark.parametrize("how", ["train", "resume"])
def test_looking_at_a_finished_run_again_changes_no_byte(finished, how, capsys):
    run, arguments = finished
    before = content(run)
    for _ in range(2):
        capsys.readouterr()
        assert command(arguments if how == "train" else ["resume", str(run)]) == 0
        said = capsys.readouterr()
        assert said.out.startswith("evaluation  return ")
        assert "this run has ended; here is its result" in said.err
        assert content(run) == before
    assert {path.parts[0] for path in before} >= {"video", "tensorboard", "report.html", "policy", "lock"}
    assert before[Path("lock")] == b""  # it says who holds it, and nobody does


def test_removed_tensorboard_files_of_a_finished_run_are_written_anew(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="an extra")
    train(tmp_path / "run")

    def shown():
        events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
        events.Reload()
        return {tag: len(events.Tensors(tag)) for tag in events.Tags()["tensors"]}

    before = shown()
    for file in (tmp_path / "run" / "tensorboard").iterdir():
        file.unlink()
    (tmp_path / "run" / "tensorboard").rmdir()
    train(tmp_path / "run", resume=True)
    assert shown() == before != {}


# ---- A newer version's checkpoint


def test_a_checkpoint_of_an_unknown_format_is_not_taken_for_a_damaged_one(tmp_path, caplog):
    train(tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "58"
    (newest / "manifest.json").write_bytes(sealed.seal({"format": 2, "of": "a later version"}))
    before = content(tmp_path / "run")
    for steps in (58, 90):
        with caplog.at_level(logging.WARNING, "t3d"), pytest.raises(FormatRefused) as refused:
            train(tmp_path / "run", steps=steps, resume=True)
        assert f"{newest}: format 2" in str(refused.value)
        assert f"expected: format {checkpoints.FORMAT}" in str(refused.value)
        assert "use the version of t3d that wrote it" in str(refused.value)
    with pytest.raises(FormatRefused):
        api.resume(tmp_path / "run", env=PROBE)
    assert caplog.text == ""
    assert content(tmp_path / "run") == before
    # Its seal broken, it is damaged: nothing says that a later version wrote it.
    text = (newest / "manifest.json").read_text()
    (newest / "manifest.json").write_text(text.replace("later", "other"))
    assert train(tmp_path / "run", resume=True).resumed_at < 58
