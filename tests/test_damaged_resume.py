"""A damaged run goes on, or is refused: what is lost of it, what is said, and that an ended run is left as it is."""

import json
import logging
import shutil

import pytest
from run_folders import rows_of
from small_runs import PROBE, choice, train

import t3d
from t3d import api
from t3d.env_spec import EnvSpec
from t3d.reports import read_runs, write_report
from t3d.runs.session import Session

STEPS = 90
# No slot of the memory is needed twice, so that what was lost is never overwritten.
OPTIONS = {"batch_size": 2, "buffer_size": 200}


def content(folder):
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes() for name, path in files.items() if name.partition("/")[0] not in ("lock", "tensorboard")
    }


def weights(session):
    return {name: tensor.numpy().tobytes() for name, tensor in session.trainer.agent.tensors().items()}


class Stopped:
    """A run that has ended after 58 steps and may go on to 90, and the same one never stopped."""

    def __init__(self, path):
        self.path = path / "run"
        self.expected = weights(train(path / "whole", steps=STEPS, **OPTIONS))
        train(self.path, **OPTIONS)
        assert sorted(file.name for file in (self.path / "checkpoints").iterdir()) == ["48", "58"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    return Stopped(tmp_path_factory.mktemp("stopped"))


@pytest.fixture
def run(stopped, tmp_path):
    return shutil.copytree(stopped.path, tmp_path / "run")


def go_on(run, **options):
    return train(run, steps=STEPS, resume=True, **OPTIONS, **options)


def flip(run, name, at):
    """Change a bit of a file at a share of its length."""
    file = run / name
    damaged = bytearray(file.read_bytes())
    damaged[int(at * len(damaged))] ^= 4
    file.write_bytes(damaged)


def events(run):
    return [row for row in rows_of(run) if row["kind"] == "event"]


# ---- metrics.jsonl


@pytest.mark.parametrize("at", [0.0, 0.01, 0.5, 0.999])
def test_rows_that_are_lost_leave_a_gap_that_is_told_and_the_weights_are_those_of_the_undisturbed_run(
    stopped, run, at, caplog
):
    before = (run / "metrics.jsonl").read_bytes()
    flip(run, "metrics.jsonl", at)
    good = before[: before.rfind(b"\n", 0, int(at * len(before))) + 1]
    last = json.loads(good.splitlines()[-1])["env_steps"] if good else 0
    with caplog.at_level(logging.WARNING, "t3d"):
        session = go_on(run)
    assert f"rows are gone from env step {last} to 58" in caplog.text
    assert weights(session) == stopped.expected
    now = (run / "metrics.jsonl").read_bytes()
    assert now.startswith(good)
    lost = [row for row in events(run) if "lost" in row]
    assert [row["lost"] for row in lost] == [[last, 58]]
    assert f"metrics.jsonl, behind byte {len(good):,}" in lost[0]["what"]
    assert not any("not bit-exact" in row["what"] for row in events(run))
    seen = read_runs.read(run)
    assert seen.gaps == ((last, 58),)
    assert f"Rows between env steps {last} and 58 are gone: metrics.jsonl was damaged." in seen.notes
    assert write_report([run]).stat().st_size > 10_000


def test_rows_that_are_gone_altogether(stopped, run):
    (run / "metrics.jsonl").unlink()
    assert weights(go_on(run)) == stopped.expected
    assert [row["lost"] for row in events(run) if "lost" in row] == [[0, 58]]
    assert rows_of(run)[0]["kind"] == "run"


def test_what_was_lost_is_not_found_missing_again(stopped, run, caplog):
    """Killed right behind its resuming: what was settled stays settled."""
    flip(run, "metrics.jsonl", 0.5)
    flip(run, "policy/best.safetensors", 0.5)
    # Gone before anything is saved on the way out.
    Session(EnvSpec(PROBE), choice(steps=STEPS, **OPTIONS), run, resume=True)._store.close()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "t3d"):
        assert weights(go_on(run)) == stopped.expected
    assert caplog.text == ""
    assert len([row for row in events(run) if "lost" in row]) == 1


def test_rows_of_another_run_are_refused(stopped, run, tmp_path):
    other = train(tmp_path / "other", **{**OPTIONS, "seed": 1}).path
    for case in ("another id", "this id, but another run"):
        if case != "another id":
            other = train(tmp_path / "same", **OPTIONS, steps=STEPS).path  # other wall times
        (run / "metrics.jsonl").write_bytes((other / "metrics.jsonl").read_bytes())
        before = content(run)
        with pytest.raises(t3d.Refused, match=r"metrics\.jsonl is another run's"):
            go_on(run)
        assert content(run) == before


def test_rows_before_which_nothing_vouches_do_not_hide_a_run(run):
    shutil.rmtree(run / "checkpoints")
    flip(run, "metrics.jsonl", 0.5)
    with pytest.raises(t3d.Refused, match=r"metrics\.jsonl cannot be read"):
        go_on(run)
    assert (run / "policy" / "best.safetensors").is_file()


# ---- The replay memory


def test_slots_that_are_lost_are_empty_and_the_run_says_so_for_good(stopped, run, caplog):
    flip(run, "replay/00000000.rows", 0.3)
    with caplog.at_level(logging.WARNING, "t3d"):
        session = go_on(run)
    assert session.resumed_at == 58
    (why,) = session.progress.not_exact
    assert why.endswith("are not as they were written")
    assert f"slots of the replay memory are lost: {run / 'replay' / '00000000.rows'}: bytes " in why
    assert f"not bit for bit what it would have been: {why}" in caplog.text
    assert f"not bit-exact: {why}" in [row["what"] for row in events(run)]
    assert len(session.trainer.replay) < 90
    assert weights(session) != stopped.expected
    # What is damaged stays as it is, and what was written since is found behind it.
    again = train(run, steps=STEPS + 10, resume=True, **OPTIONS)
    assert again.progress.not_exact == [why]
    assert len(again.trainer.replay) == len(session.trainer.replay) + 10


def test_an_unfinished_episode_that_lost_a_slot_begins_anew(tmp_path):
    run = tmp_path / "run"
    options = {"steps": 20, "n_envs": 1, "buffer_size": 100, "log_every": 1, "checkpoint_every": 5}
    assert train(run, until=11, **options).trainer.envs.state.length == [2]
    file = run / "replay" / "00000000.rows"
    file.write_bytes(file.read_bytes()[:-8])
    session = train(run, resume=True, **options)
    begun_anew, lost = session.progress.not_exact
    assert "slots of the replay memory are lost" in lost
    assert begun_anew == "environment 0, episode 3, 2 of its 2 steps are not on disk"
    assert session.finished


def test_where_not_even_a_batch_is_left_it_is_refused_and_nothing_is_changed(run):
    (run / "replay" / "00000000.rows").unlink()
    before = content(run)
    with pytest.raises(t3d.Refused, match="too little is left of the replay memory to learn from"):
        go_on(run)
    assert content(run) == before


# ---- Policies and config.json


def test_a_lost_best_policy_is_forgotten_and_the_next_evaluation_writes_a_new_one(stopped, run, caplog):
    flip(run, "policy/best.safetensors", 0.5)
    flip(run, "policy/last.safetensors", 0.5)
    with caplog.at_level(logging.WARNING, "t3d"):
        session = go_on(run)
    assert weights(session) == stopped.expected
    assert "the best policy so far is lost, and with it what it scored" in caplog.text
    assert len([row for row in events(run) if "the best policy so far is lost" in row["what"]]) == 1
    assert t3d.load(run).info.env_steps == session.progress.best_env_steps > 58
    assert t3d.load(run / "policy" / "last.safetensors").info.env_steps == STEPS
    assert session.progress.not_exact == []


def test_the_best_policy_of_another_run_is_not_taken_for_this_ones(run, tmp_path):
    other = train(tmp_path / "other", **{**OPTIONS, "seed": 1}).path
    shutil.copyfile(other / "policy" / "best.safetensors", run / "policy" / "best.safetensors")
    with pytest.raises(t3d.Refused, match="this policy is another run's"):
        api.evaluate_run(run, "best", env=EnvSpec(PROBE))
    session = go_on(run)
    assert t3d.load(run).info.run == session._store._record.run


def test_a_damaged_config_json_is_refused_while_its_policies_play(run):
    flip(run, "config.json", 0.5)
    before = content(run)
    for attempt in (
        lambda: api.resume(run, env=EnvSpec(PROBE)),
        lambda: api.evaluate_run(run, "best", env=EnvSpec(PROBE)),
    ):
        with pytest.raises(t3d.Refused, match=r"config\.json"):
            attempt()
    assert content(run) == before
    assert t3d.load(run).info.env_steps > 0
    (run / "config.json").unlink()
    with pytest.raises(t3d.Refused, match=r"no file .*config\.json"):
        api.resume(run, env=EnvSpec(PROBE))


def test_a_report_misses_no_seed_whose_config_json_is_gone(stopped, tmp_path):
    for seed in ("s0", "s1"):
        shutil.copytree(stopped.path, tmp_path / "all" / seed)
    (tmp_path / "all" / "s1" / "config.json").unlink()
    with pytest.raises(t3d.Refused, match=r"s1/config\.json"):
        write_report([tmp_path / "all"])


# ---- What is no damage, and a run that has ended


NAMES = ("metrics.jsonl", "replay/00000000.rows", "policy/best.safetensors", "policy/last.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_run_that_has_ended_is_not_changed_by_who_looks_at_it(run, name, caplog):
    flip(run, name, 0.5)
    before = content(run)
    with caplog.at_level(logging.WARNING, "t3d"):
        session = api.resume(run, env=EnvSpec(PROBE))
    session._store.close()
    assert session.had_ended
    assert content(run) == before
    assert len(caplog.records) == (name in ("metrics.jsonl", "replay/00000000.rows"))


READ = ("config.json", "policy/best.safetensors", "metrics.jsonl", "replay/00000000.rows")
CHECKPOINTS = ("checkpoints/48/manifest.json", "checkpoints/58/manifest.json", "checkpoints/58/state.safetensors")


@pytest.mark.parametrize("name", [*READ, *CHECKPOINTS])
def test_a_file_that_cannot_be_read_is_not_taken_for_damaged(stopped, run, name, monkeypatch):
    """A read error may pass: nothing is changed because of it."""
    before = content(run)
    path_open = type(run).open

    def failing(path, *arguments, **named):
        if path == run / name:
            raise OSError(5, "Input/output error", str(path))
        return path_open(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(type(run), "open", failing)
        with pytest.raises(t3d.Refused, match="Input/output error"):
            go_on(run)
    assert content(run) == before
    assert weights(go_on(run)) == stopped.expected
