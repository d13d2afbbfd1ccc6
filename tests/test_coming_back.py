"""What a resumed run finds, says and leaves on the disk: what lies behind its checkpoint, what is no longer as it was,
a newer format, a finished run."""

import json
import logging
from pathlib import Path

import pytest
import small_runs
from film_here import films_here
from sealing import reseal, said, seal
from small_runs import PROBE, train

from t3d import api
from t3d.cli.main import run as command
from t3d.env_spec import EnvSpec
from t3d.errors import EnvFailed, FormatRefused, RunRefused
from t3d.formats import FORMAT
from t3d.runs.checkpoints import Checkpoints
from t3d.runs.progress import RunProgress
from t3d.runs.session import Session
from t3d.storage import disk

OWN = str(Path(__file__).with_name("own_envs.py"))


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_wall_times(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in ("wall_s", "crc32")} for row in rows]


# ---- What lies behind the checkpoint


def gone_at(folder, env_steps, **options):
    """Train until so many env steps and vanish as a killed process does: nothing is saved on the way out."""
    session = Session(EnvSpec(PROBE), small_runs.choice(**options), folder)
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
    assert facts["trainer"]["envs"]["env_steps"] < 48
    assert before[length:].count(b"\n") > 3
    session = Session(EnvSpec(PROBE), small_runs.choice(), tmp_path / "run", resume=True)
    now = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert now[:length] == before[:length]
    assert [json.loads(line)["kind"] for line in now[length:].splitlines()] == ["event"]
    list(session.run())
    rows = without_wall_times(tmp_path / "run")
    assert [row for row in rows if row["kind"] != "event"] == without_wall_times(tmp_path / "whole")


@pytest.mark.parametrize("segment_bytes", [1 << 20, 300], ids=["in its segment", "in segments of their own"])
def test_slots_behind_the_checkpoint_are_cut(tmp_path, monkeypatch, segment_bytes):
    monkeypatch.setattr("t3d.runs.replay_log._SEGMENT_BYTES", segment_bytes)
    whole = train(tmp_path / "whole").trainer.agent.tensors()
    with monkeypatch.context() as patch:
        # The slots reach the disk, the checkpoint that would tell of them does not.
        commit = Checkpoints.commit

        def failing(self, content, manifest):
            if manifest.trainer.envs.env_steps > 30:
                raise OSError("the disk is gone")
            return commit(self, content, manifest)

        patch.setattr(Checkpoints, "commit", failing)
        gone_at(tmp_path / "run", 56)
    _, told, _ = position(tmp_path / "run")
    assert sum(sizes(tmp_path / "run").values()) > sum(told.values())
    session = Session(EnvSpec(PROBE), small_runs.choice(), tmp_path / "run", resume=True)
    assert sizes(tmp_path / "run") == told
    list(session.run())
    ended = session.trainer.agent.tensors()
    assert {k: v.numpy().tobytes() for k, v in ended.items()} == {k: v.numpy().tobytes() for k, v in whole.items()}


def test_a_run_whose_memory_went_round_comes_back(tmp_path, monkeypatch):
    # Segments of many checkpoints, the first of them removed, and the oldest that is left still needed.
    monkeypatch.setattr("t3d.runs.replay_log._SEGMENT_BYTES", 1500)
    options = {"buffer_size": 60, "steps": 200, "checkpoint_every": 10, "batch_size": 4}
    whole = train(tmp_path / "whole", **options).trainer.agent.tensors()
    gone_at(tmp_path / "run", 150, **options)
    _, told, _ = position(tmp_path / "run")
    assert min(sizes(tmp_path / "run")) > "00000000.rows"
    assert set(told) == set(sizes(tmp_path / "run"))
    session = Session(EnvSpec(PROBE), small_runs.choice(**options), tmp_path / "run", resume=True)
    list(session.run())
    ended = session.trainer.agent.tensors()
    assert {k: v.numpy().tobytes() for k, v in ended.items()} == {k: v.numpy().tobytes() for k, v in whole.items()}


# ---- Two runs at once


def test_two_runs_make_the_folder_above_them_at_the_same_moment(tmp_path, monkeypatch):
    above, made = tmp_path / "above", disk.make_new_folder

    def after_another(path):
        made(path)
        if path == above:
            made(path)  # as the other run does between our look and our call

    monkeypatch.setattr(disk, "make_new_folder", after_another)
    disk.make_folder(above / "run")
    assert (above / "run").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        disk.make_folder(tmp_path / "file")


# ---- A finished run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    arguments = ["--steps", "120", "--random-steps", "50", "--eval-every", "120", "--eval-episodes", "1"]
    arguments += ["--hidden", "8", "--threads", "1", "--engine", "eager", "--video-frames", "3", "--out", str(run)]
    arguments = ["train", f"{OWN}:Walk", *arguments, "--resume", "auto"]
    with films_here():
        assert command(arguments) == 0
    return run, arguments


@pytest.mark.parametrize("how", ["train", "resume"])
def test_looking_at_a_finished_run_again_changes_no_byte(finished, how, capsys):
    run, arguments = finished
    (run / "report.html").write_text("what was made of this run and another one")
    before = content(run)
    for _ in range(2):
        capsys.readouterr()
        assert command(arguments if how == "train" else ["resume", str(run), "--env", f"{OWN}:Walk"]) == 0
        said = capsys.readouterr()
        assert said.out.startswith("evaluation  return ")
        assert "this run has ended; here is its result" in said.err
        assert content(run) == before
    assert {path.parts[0] for path in before} >= {"video", "tensorboard", "report.html", "policy", "lock"}
    assert before[Path("lock")] == b""  # it says who holds it, and nobody does


def test_tensorboard_shows_each_row_once_after_a_resume(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="an extra")
    gone_at(tmp_path / "run", 48)
    train(tmp_path / "run", resume=True)
    # Everything, however much: the accumulator keeps a sample by default.
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for kind, name in (("episode", "return"), ("update", "critic_loss"), ("evaluation", "return_mean")):
        expected = [(row["env_steps"], row[name]) for row in rows if row["kind"] == kind]
        assert [(e.step, pytest.approx(e.value)) for e in events.Scalars(f"{kind}/{name}")] == expected


def test_a_place_where_tensorboard_cannot_write_stops_no_run(tmp_path, caplog):
    pytest.importorskip("tensorboard", reason="an extra")
    train(tmp_path / "run", until=30)
    disk.remove(tmp_path / "run" / "tensorboard")
    (tmp_path / "run" / "tensorboard").write_text("a file where a folder should be")
    with caplog.at_level(logging.WARNING, "t3d"):
        assert train(tmp_path / "run", resume=True).finished
    assert [record.message.split(":")[0] for record in caplog.records] == ["TensorBoard's files end here"]


# ---- Another version's run


@pytest.mark.parametrize("version", [2, FORMAT + 1])
def test_a_run_of_another_format_is_refused_and_left_as_it_is(tmp_path, caplog, version):
    train(tmp_path / "run")
    reseal(tmp_path / "run" / "config.json", format=version, of="another version")
    before = content(tmp_path / "run")
    for steps in (58, 90):
        with pytest.raises(FormatRefused) as refused:
            train(tmp_path / "run", steps=steps, resume=True)
        assert f"config.json: format {version}" in str(refused.value)
        assert f"expected: format {FORMAT}" in str(refused.value)
        assert "use the version of t3d that wrote it" in str(refused.value)
    with pytest.raises(FormatRefused):
        api.resume(tmp_path / "run", env=EnvSpec(PROBE))
    assert caplog.text == ""
    assert content(tmp_path / "run") == before


# ---- What is no longer as it was


def manifest(run):
    """Return the newest checkpoint's."""
    found = [json.loads((path / "manifest.json").read_text()) for path in (run / "checkpoints").iterdir()]
    return max(found, key=lambda facts: facts["number"])


def events(run):
    return [row["what"] for row in without_wall_times(run) if row["kind"] == "event"]


SAID = "from here on the run is not bit for bit what it would have been: "


def test_an_environment_that_does_not_repeat_itself_begins_a_new_episode_and_the_run_says_so(tmp_path, caplog):
    run, env, options = tmp_path / "run", f"{OWN}:Unrepeatable", {"n_envs": 1, "buffer_size": 48}
    assert train(run, env=env, until=30, **options).trainer.env_steps == 30  # half of its second episode
    assert manifest(run)["progress"]["not_exact"] == []
    with caplog.at_level(logging.WARNING, "t3d"):
        session = train(run, env=env, resume=True, **options)
    (why,) = session.progress.not_exact
    assert why == "environment 0, episode 1, step 0: another observation"
    assert SAID + why in caplog.text
    assert events(run)[-2:] == [f"not bit-exact: {why}", "resumed from 30"]
    assert manifest(run)["progress"]["not_exact"] == [why]
    # Of 58 steps twenty were the first episode and ten the one that was given up; the next began at its first step.
    ended = [(row["env_steps"], row["length"]) for row in without_wall_times(run) if row["kind"] == "episode"]
    assert ended == [(20, 20), (50, 20)]
    assert manifest(run)["trainer"]["envs"]["length"] == [8]
    assert train(run, env=env, resume=True, steps=70, **options).progress.not_exact[0] == why  # for good


@pytest.mark.parametrize(
    ("part", "name", "was", "says"),
    [
        ("engine", "threads", 2, "threads was 2, is 1"),
        ("engine", "name", "fused", "engine was fused, is eager"),
        ("machine", "versions", {"torch": "1.0"}, "versions was {'torch': '1.0'}, is {"),
        ("machine", "processor", "another one", "processor was another one, is "),
    ],
)
def test_a_run_begun_with_another_engine_or_elsewhere_goes_on_and_says_so(tmp_path, caplog, part, name, was, says):
    run = tmp_path / "run"
    train(run, until=30)
    recorded = said(run / "config.json")
    recorded[part][name] = was
    seal(run / "config.json", recorded)
    with caplog.at_level(logging.WARNING, "t3d"):
        (why,) = train(run, resume=True).progress.not_exact
    assert why.startswith(says)
    assert SAID + why in caplog.text
    assert f"not bit-exact: {why}" in events(run)
    assert manifest(run)["progress"]["not_exact"] == [why]


def test_a_run_that_is_as_it_was_says_nothing_of_the_kind(tmp_path, caplog):
    train(tmp_path / "run", until=30)
    with caplog.at_level(logging.WARNING, "t3d"):
        assert train(tmp_path / "run", resume=True).progress.not_exact == []
    assert caplog.text == ""
    assert events(tmp_path / "run") == ["interrupted", "resumed from 30"]


# ---- Other options


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    run = tmp_path_factory.mktemp("stopped") / "run"
    train(run, until=30)
    return run


@pytest.mark.parametrize(
    ("options", "differences"),
    [
        ({"gamma": 0.5}, ["gamma was 0.99, now 0.5"]),
        (
            {"batch_size": 5, "hidden": (4,), "seed": 1},
            ["seed was 0, now 1", "batch_size was 4, now 5", "hidden was (3,), now (4,)"],
        ),
        ({"env": f"{OWN}:Walk"}, [f"the environment was {PROBE}, now {OWN}:Walk"]),
        (
            {"env": f"{OWN}:Walk", "lr": 0.5, "steps": 57},
            ["now " + f"{OWN}:Walk", "lr was 0.0003, now 0.5", "steps was 58, now 57: it may grow, not shrink"],
        ),
        ({"steps": 57}, ["steps was 58, now 57: it may grow, not shrink"]),
    ],
    ids=["one", "three", "the environment", "all kinds", "fewer steps"],
)
def test_options_that_would_make_it_another_run_are_refused_all_at_once(stopped, options, differences):
    before = content(stopped)
    with pytest.raises(RunRefused, match="the run in this folder has other options") as refused:
        train(stopped, resume=True, **options)
    said = refused.value.rows["got"]
    assert said.startswith(f"{stopped}: ")
    for difference in differences:
        assert difference in said
    assert said.count("; ") == len(differences) - 1
    assert content(stopped) == before


def test_more_steps_and_other_checkpoints_make_it_no_other_run(tmp_path):
    whole = train(tmp_path / "whole", steps=80).trainer.agent.tensors()
    train(tmp_path / "run")
    session = train(tmp_path / "run", resume=True, steps=80, checkpoint_every=7, checkpoint_seconds=1e6)
    assert (session.resumed_at, session.trainer.env_steps) == (58, 80)
    now = said(tmp_path / "run" / "config.json")["config"]
    assert (now["steps"], now["checkpoint_every"]) == (80, 7)
    ended = session.trainer.agent.tensors()
    assert {k: v.numpy().tobytes() for k, v in ended.items()} == {k: v.numpy().tobytes() for k, v in whole.items()}


# ---- An environment that fails again


def test_a_failure_that_comes_back_at_the_same_step_is_recognised_and_named(tmp_path, capsys):
    run, env = tmp_path / "run", f"{OWN}:RaisesInEveryEpisode"
    for times in (1, 2, 3):
        with pytest.raises(EnvFailed) as failed:
            train(run, env=env, resume=True, n_envs=1)
        again = f"(time {times} at this very step: resuming alone will not help)"
        assert (again in str(failed.value)) == (again in events(run)[-1]) == (times > 1)
        assert "the motor is stuck" in str(failed.value)
        assert "episode 0, episode step 13" in str(failed.value)
        assert manifest(run)["trainer"]["envs"]["env_steps"] == 12
    assert failed.value.rows["do"] == "fix the environment, or begin a new run"
    # And so says the command, in a process that knows of the others by the folder alone.
    assert command(["resume", str(run), "--env", env, "--no-video"]) == 1
    assert "(time 4 at this very step: resuming alone will not help)" in capsys.readouterr().err


def test_a_failure_at_another_step_is_another_failure():
    progress = RunProgress()
    assert [progress.failed(env_steps) for env_steps in (7, 7, 9, 7)] == [1, 2, 1, 1]
