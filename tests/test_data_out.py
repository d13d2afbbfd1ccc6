"""Data out of runs: `t3d.read` as arrays, `t3d.iterate` row by row, what `t3d.train` says from Python."""

import gc
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from run_folders import episode, row, rows_of, write_run

import t3d
from t3d.errors import ConfigRefused, EnvFailed, RunRefused
from t3d.reports import records
from t3d.runs import live_line

ENV = f"{Path(__file__).with_name('probes.py')}:Counting"
SMALL = {
    "steps": 60,
    "random_steps": 10,
    "batch_size": 4,
    "buffer_size": 100,
    "hidden": (3,),
    "eval_every": 20,
    "eval_episodes": 1,
    "log_every": 10,
    "engine": "eager",
    "threads": 1,
}


# ---- read


@pytest.fixture
def two(tmp_path):
    """Two runs by hand that differ in lr, and one of the first kind with another seed."""
    loss = row("update", 50, updates=5, critic_loss=0.5, actor_loss=None, q1=1.0, q2=2.0, target_q=3.0)
    promised = row("health", 100, of="evaluation", q1_bias=7.0)
    write_run(tmp_path / "a", {100: 1.0, 200: 3.0}, extra=[episode(40, 9.0), loss, promised])
    write_run(tmp_path / "b", {100: 2.0}, seed=1, steps=200)
    write_run(tmp_path / "c", {100: 5.0}, steps=200, lr=0.5)
    return tmp_path


def test_rows_come_as_arrays_with_run_seed_and_group(two):
    read = t3d.read(two)
    evaluations = read.evaluations
    assert evaluations["return_mean"].tolist() == [1.0, 3.0, 2.0, 5.0]
    assert evaluations["env_steps"].tolist() == [100, 200, 100, 100]
    assert evaluations["env_steps"].dtype == np.int64
    assert evaluations["returns"].tolist() == [[0.0, 2.0], [2.0, 4.0], [1.0, 3.0], [4.0, 6.0]]
    assert evaluations["seed"].tolist() == [0, 0, 1, 0]
    assert evaluations["group"].tolist() == ["td3, lr 0.0003"] * 3 + ["td3, lr 0.5"]
    assert evaluations["run"].tolist() == [str(two / name) for name in "aabc"]
    assert read.runs["finished"].tolist() == [True, False, False]
    assert read.runs["env_steps"].tolist() == [200, 100, 100]
    assert read.episodes["return"].tolist() == [9.0]
    assert read.episodes["end"].tolist() == ["truncated"]
    assert read.losses["q2"].tolist() == [2.0]
    assert np.isnan(read.losses["actor_loss"]).all()
    assert dict(zip(read.health["of"], read.health["q1_bias"], strict=True)) == {"evaluation": 7.0}
    assert read.notes == ()
    assert read.events.rows == 0
    assert "evaluations         4 rows" in repr(read)
    assert repr(read.losses).startswith("<1 rows: run, seed, group, env_steps")


def test_a_single_run_is_read_by_its_folder_and_an_empty_one_has_no_rows(two, tmp_path):
    assert t3d.read(str(two / "a"), two / "c").evaluations["return_mean"].tolist() == [1.0, 3.0, 5.0]
    empty = t3d.read(write_run(tmp_path / "none", {}))
    assert (empty.evaluations.rows, list(empty.evaluations)) == (0, [])
    for paths in ((), (tmp_path / "nothing",)):
        with pytest.raises(RunRefused, match=r"no run"):
            t3d.read(*paths)


def test_lists_of_other_lengths_stay_lists(two):
    write_run(two / "c", {100: 5.0}, extra=[row("event", 1, what="a"), row("event", 2, what="b", lost=(0, 2))])
    assert t3d.read(two / "c").events["what"].tolist() == ["a", "b"]
    odd = records._column([[1.0, 2.0], [3.0], None])
    assert [entries.tolist() for entries in odd] == [[1.0, 2.0], [3.0], []]


def test_what_is_half_written_is_left_out_and_said(two):
    log = two / "a" / "metrics.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:-5])
    (two / "a" / "checkpoints" / "0" / "manifest.json").unlink()
    read = t3d.read(two / "a")
    assert read.evaluations["env_steps"].tolist() == [100]
    assert read.notes == ("The last line of metrics.jsonl, line 6, is half written and left out.",)
    assert "note: The last line" in repr(read)
    (note,) = t3d.read(two).notes
    assert note.startswith(f"{two / 'a'}: The last line")


def test_a_row_of_more_names_than_anybody_writes_is_refused(two):
    write_run(two / "a", {100: 1.0}, extra=[row("health", 1, of="batch", **{f"n{i}": i for i in range(1_001)})])
    with pytest.raises(RunRefused, match="too many names"):
        t3d.read(two / "a")


@pytest.mark.parametrize("name", ["pandas", "polars"])
def test_tables_go_to_data_frames(two, name, monkeypatch):
    table = t3d.read(two).evaluations
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigRefused, match=f"{name} is not installed"):
        getattr(table, f"to_{name}")()
    monkeypatch.undo()
    pytest.importorskip(name)
    frame = getattr(table, f"to_{name}")()
    assert list(frame.columns) == list(table)
    assert frame["return_mean"].to_list() == [1.0, 3.0, 2.0, 5.0]
    assert [list(returns) for returns in frame["returns"]][:2] == [[0.0, 2.0], [2.0, 4.0]]


def test_reading_needs_no_pytorch_and_no_scipy(two):
    code = f"import sys, t3d; t3d.read({str(two)!r}); print(*{{'torch', 'scipy'}} & set(sys.modules))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.split() == []


# ---- iterate


def begin(folder, **options):
    return t3d.iterate(ENV, out=folder, **SMALL | options)


def evaluations(folder):
    return [(one["env_steps"], one["return_mean"]) for one in rows_of(folder) if one["kind"] == "evaluation"]


def test_the_rows_are_those_of_the_run_and_the_run_is_trains(tmp_path):
    rows = list(begin(tmp_path / "a"))
    assert rows == rows_of(tmp_path / "a")[1:]
    t3d.train(ENV, out=tmp_path / "b", video=False, quiet=True, **SMALL)
    assert (tmp_path / "a/policy/last.safetensors").read_bytes() == (
        tmp_path / "b/policy/last.safetensors"
    ).read_bytes()


def test_leaving_the_loop_saves_and_the_run_goes_on_to_the_bit(tmp_path):
    for one in begin(tmp_path / "a"):
        if one["env_steps"] >= 30:
            break
    gc.collect()
    assert [path.name for path in (tmp_path / "a/checkpoints").iterdir()] == ["30"]
    for _ in begin(tmp_path / "a", resume="auto"):
        pass
    list(begin(tmp_path / "b"))
    assert evaluations(tmp_path / "a") == evaluations(tmp_path / "b")
    assert (tmp_path / "a/policy/last.safetensors").read_bytes() == (
        tmp_path / "b/policy/last.safetensors"
    ).read_bytes()


def test_leaving_with_saves_even_where_somebody_holds_the_rows(tmp_path):
    with pytest.raises(ZeroDivisionError), begin(tmp_path / "a") as rows:
        for one in rows:
            assert rows.path == tmp_path / "a"
            _ = 1 / (30 - one["env_steps"])
    assert (tmp_path / "a/checkpoints/30/manifest.json").is_file()
    with pytest.raises(StopIteration):
        next(rows)
    rows.close()


def test_what_was_never_read_lets_go_of_its_folder(tmp_path):
    rows = begin(tmp_path / "a")
    rows.close()
    assert len(list(begin(tmp_path / "a", resume="auto"))) > 5


def test_what_the_environment_raises_reaches_the_reader(tmp_path):
    env = f"{Path(__file__).with_name('odd_envs.py')}:SysExit"
    with pytest.raises(EnvFailed):
        list(t3d.iterate(env, out=tmp_path / "a", **SMALL))


def test_one_left_open_saves_at_the_interpreters_end(tmp_path):
    code = f"import t3d; rows = t3d.iterate({ENV!r}, out={str(tmp_path / 'a')!r}, **{SMALL!r}); next(rows); print(3)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "3"
    assert child.stderr == ""
    assert len(list((tmp_path / "a/checkpoints").iterdir())) == 1


# ---- what train says


def test_train_says_how_far_it_is_unless_it_is_told_not_to(tmp_path, capsys):
    run = t3d.train(ENV, out=tmp_path / "a", video=False, **SMALL)
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if " steps " in line]
    # What lay between may have come within a second.
    assert [lines[0].split()[0], lines[-1].split()[0]] == ["20", "60"]
    t3d.train(ENV, out=tmp_path / "b", video=False, quiet=True, **SMALL)
    assert capsys.readouterr().err == ""
    shown = str(run).splitlines()
    assert shown[0].startswith(f"evaluation  return {run.last.return_mean:,.1f} ± 0.0 over 1 episode (best ")
    assert shown[1:] == [f"folder      {tmp_path / 'a'}", f"report      {run.report}"]
    assert repr(run) == str(run)


def test_lines_that_come_too_soon_are_left_out_but_not_the_last(monkeypatch):
    class Seen:
        """A session of five evaluations, 0.4 s apart."""

        path, config = Path("run"), type("Config", (), {"steps": 5})

        def rows(self, kind):
            return []

        def run(self):
            for step in range(1, 6):
                clock[0] += 0.4
                yield {
                    "kind": "evaluation",
                    "env_steps": step,
                    "wall_s": clock[0],
                    "return_mean": 0.0,
                    "return_std": 0.0,
                }

    clock, said = [0.0], io.StringIO()
    monkeypatch.setattr(live_line.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sys, "stderr", said)
    live_line.watch(Seen(), 1.0)
    assert [line.split()[0] for line in said.getvalue().splitlines()] == ["1", "4", "5"]
    live_line.watch(Seen())
    assert [line.split()[0] for line in said.getvalue().splitlines()] == ["1", "4", "5", "1", "2", "3", "4", "5"]
