"""Whatever an environment does, a run is saved, and nothing is taken for a number that is none."""

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import odd_envs
import own_envs
import pytest
import torch
from test_determinism import digest
from test_envs import actions_for

import t3d
from t3d import api
from t3d.cli.main import run as command
from t3d.config import Config
from t3d.env_spec import EnvSpec
from t3d.environments import values
from t3d.environments.check import check
from t3d.environments.envs import Envs
from t3d.errors import EnvFailed, EnvRefused, RunRefused, SaveFailed, shortened
from t3d.presets import Choice
from t3d.reports import write_report
from t3d.runs.checkpoints import folders
from t3d.runs.session import Session
from t3d.runs.signals import Signals
from t3d.spaces import ObsPart
from t3d.training.evaluation import evaluate

ODD = str(Path(odd_envs.__file__).resolve())
OWN = str(Path(own_envs.__file__).resolve())
SMALL = {"steps": 60, "random_steps": 20, "batch_size": 8, "hidden": (4,), "eval_episodes": 1, "engine": "eager"}


def session(folder, env, resume=False, **options):
    config = Config().with_values({**SMALL, "threads": 1, **options})
    return Session(EnvSpec(env), Choice("td3", config, "as asked"), folder, resume=resume)


def ended(folder, env, **options):
    """Train to the end; return the digest of what was learned."""
    run = session(folder, env, **options)
    for _ in run.run():
        pass
    return digest(run.trainer.agent)


# ---- Ways out of the loop


@pytest.fixture
def usual_handlers():
    """Those of a process on a terminal; the tests themselves may run where SIGINT or SIGHUP is ignored."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    usual |= {signal.SIGHUP: signal.SIG_DFL} if hasattr(signal, "SIGHUP") else {}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("SysExit", "the environment raised SystemExit in step"),
        ("Interrupted", "the environment raised KeyboardInterrupt in step"),
        ("Cancelled", "the environment raised CancelledError in step"),
        ("Unspeakable", "raised UnspeakableError in step: (asked for its message it raises UnicodeError)"),
    ],
)
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_whatever_it_raises_is_its_failure_and_the_run_is_saved(tmp_path, name, says, workers):
    failing = session(tmp_path / "run", f"{ODD}:{name}", env_workers=workers)
    with pytest.raises(EnvFailed) as failed:
        for _ in failing.run():
            pass
    assert says in str(failed.value)
    assert failed.value.exit_code == 1
    assert [path.name for path in folders(tmp_path / "run" / "checkpoints")] == ["29"]
    assert session(tmp_path / "run", f"{ODD}:{name}", resume=True, env_workers=workers).resumed_at == 29


def test_one_that_exits_when_it_is_made_is_refused():
    with pytest.raises(EnvRefused, match=r"its own code raised(.|\n)*SystemExit: no licence(.|\n)*fix .*odd_envs"):
        Envs(EnvSpec(f"{ODD}:SysExitWhenMade"), 1, lambda i, k: k, fresh=False)


@pytest.mark.usefixtures("usual_handlers")
def test_ctrl_c_while_nothing_is_saved_yet_is_no_failure_of_the_environment():
    with pytest.raises(KeyboardInterrupt), contextlib.closing(opened("Interrupted")) as envs:
        for action in actions_for(envs, 40):
            if envs.step(action).episodes:
                envs.reset(np.ones(1, bool))


def opened(name):
    return Envs(EnvSpec(f"{ODD}:{name}"), 1, lambda i, k: k, fresh=False)


@pytest.mark.parametrize("name", ["CloseRaises", "CloseExits"])
def test_closing_never_fails_and_is_told_once(tmp_path, caplog, name):
    with caplog.at_level(logging.WARNING, "t3d"):
        ended(tmp_path, f"{ODD}:{name}", eval_every=20, fresh_envs=True)
    assert caplog.text.count("raised when it was closed, which is passed over") == 1


@pytest.mark.usefixtures("usual_handlers")
def test_signal_handlers_are_put_back(tmp_path, caplog):
    run = session(tmp_path, f"{ODD}:TakesSignals")
    with caplog.at_level(logging.WARNING, "t3d"), pytest.raises(KeyboardInterrupt, match="stopped by SIGTERM"):
        for row in run.run():
            if row["kind"] == "episode" and row["env_steps"] == 60:
                signal.raise_signal(signal.SIGTERM)
    assert caplog.text.count("keeps replacing t3d's signal handlers") == 1
    assert [path.name for path in folders(tmp_path / "checkpoints")] == ["60"]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
@pytest.mark.usefixtures("usual_handlers")
def test_a_lost_terminal_stops_it_saved_and_nohup_is_kept(tmp_path):
    run = session(tmp_path, f"{OWN}:Walk")
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGHUP") as stopped:
        for row in run.run():
            if row["kind"] == "episode" and row["env_steps"] == 40:
                signal.raise_signal(signal.SIGHUP)
    assert stopped.value.exit_code == 129
    assert [path.name for path in folders(tmp_path / "checkpoints")] == ["40"]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGHUP)
            signals.stop_here()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("usual_handlers")
def test_of_two_runs_in_turns_each_is_asked_to_stop_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    first, second = Signals(), Signals()
    first.__enter__()
    second.__enter__()
    signal.raise_signal(signal.SIGTERM)
    first.__exit__(None, None, None)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        second.stop_here()
    assert signal.getsignal(signal.SIGTERM) is not before
    second.__exit__(None, None, None)
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_error_of_a_megabyte_is_cut_and_the_run_comes_back(tmp_path):
    with pytest.raises(EnvFailed) as failed:
        ended(tmp_path, f"{ODD}:Talkative")
    text = str(failed.value)
    assert len(text) < 5_000
    assert "first words" in text
    assert "last words" in text
    assert "characters left out" in text
    assert session(tmp_path, f"{ODD}:Talkative", resume=True).resumed_at == 29


def test_what_is_cut_says_how_much():
    assert shortened("abc", 3) == "abc"
    assert shortened("a" * 300 + "b" * 300, 60) == f"{'a' * 40} ... (540 characters left out) ... {'b' * 20}"


# ---- What it leaves behind in this process


@pytest.fixture
def process_afterwards():
    before = torch.get_num_threads()
    with warnings.catch_warnings(), np.errstate():
        yield
    torch.set_num_threads(before)
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.usefixtures("process_afterwards")
def test_what_it_sets_for_the_whole_process_changes_nothing_that_is_learned(tmp_path):
    torch.set_num_threads(2)
    expected = ended(tmp_path / "plain", f"{OWN}:Walk", log_every=20)
    assert ended(tmp_path / "odd", f"{ODD}:ChangesTheProcess", log_every=20) == expected
    text = (tmp_path / "odd" / "metrics.jsonl").read_text()
    assert text.count("ChangesTheProcess set PyTorch to 3 threads; put back to") == 1


# ---- Values


REWARDS = [1.5, np.float64(1.5), np.float32(1.5), np.float16(1.5), np.array(1.5), torch.tensor(1.5)]
ODD_REWARDS = [np.array([1.5]), torch.tensor([[1.5]]), torch.tensor(1.5, requires_grad=True)]


@pytest.mark.parametrize("given", [*REWARDS, *ODD_REWARDS], ids=repr)
def test_a_reward_is_taken(given):
    assert values.reward_of(given, "it") == 1.5


def test_whole_numbers_are_rewards():
    assert [values.reward_of(given, "it") for given in (2, np.int8(2), np.uint64(2), np.array(2))] == [2.0] * 4


NO_REWARDS = [None, True, np.True_, 1j, "1.5", b"1", [1.5, 2.5], np.array([1.0, 2.0]), np.array([]), {}, 1e39, 10**400]
NO_REWARDS += [np.ma.masked, np.ma.array([1.0], mask=[True]), torch.tensor([1.0, 2.0]), object()]


@pytest.mark.parametrize("given", NO_REWARDS, ids=lambda given: type(given).__name__)
def test_a_reward_that_is_none_is_refused(given):
    with pytest.raises(EnvFailed, match="the environment's reward is of the wrong kind") as failed:
        values.reward_of(given, "it")
    assert failed.value.rows["got"].startswith(type(given).__name__)
    assert len(failed.value.rows["got"]) < 350


@pytest.mark.parametrize(
    "given",
    [True, np.True_, np.array(True), torch.tensor(True), 1, np.int64(1), 1.0, np.array([True]), torch.tensor([1])],
    ids=repr,
)
def test_a_flag_is_taken(given):
    assert values.flag_of(given, "terminated", "it") is True
    assert values.flag_of(given != given, "terminated", "it") is False


@pytest.mark.parametrize(
    "given",
    ["False", None, float("nan"), 2, -1, 0.5, [], [True, False], np.array([False, True]), 1j, object()],
    ids=lambda given: type(given).__name__,
)
def test_a_flag_that_is_none_is_refused(given):
    with pytest.raises(EnvFailed, match="the environment's terminated is of the wrong kind"):
        values.flag_of(given, "terminated", "it")


def test_info_in_the_place_of_a_flag_is_recognised():
    with pytest.raises(EnvFailed, match="the two are swapped"):
        values.flag_of({"TimeLimit.truncated": False}, "truncated", "it")


def test_an_odd_shape_is_told_once(caplog):
    with caplog.at_level(logging.WARNING, "t3d"):
        for _ in range(3):
            values.reward_of(np.array([1.0]), "once.py:Once")
            values.flag_of(np.array([True]), "terminated", "once.py:Once")
    assert [record.message for record in caplog.records] == [
        "once.py:Once: its reward has the shape (1,); the number in it is taken",
        "once.py:Once: its terminated has the shape (1,); the flag in it is taken",
    ]


@pytest.mark.parametrize("given", ["four", None, [1, 2, 3, "4"], np.array([1, 2, 3, 4j]), [1, 2, 3, None], [1.0]])
def test_an_observation_that_is_none_is_refused(given):
    with pytest.raises(EnvFailed, match="the environment's observation is of the wrong kind"):
        values.numbers_of(given, ObsPart(shape=(4,)), "it")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("OldReset", "reset of the old gym had none"),
        ("OldFirst", "reset of the old gym returned obs alone"),
        ("OldStep", "step is of the old gym, with one flag for both ends"),
    ],
)
def test_the_old_gym_is_recognised(name, says):
    with pytest.raises(EnvFailed) as failed, contextlib.closing(opened(name)) as envs:
        envs.step(actions_for(envs, 1)[0])
    assert says in str(failed.value)


@pytest.mark.parametrize("name", ["Float16Actions", "Float64Actions"])
def test_actions_are_of_the_spaces_own_kind_and_within_its_bounds(name):
    envs = Envs(EnvSpec(f"{ODD}:{name}"), 1, lambda i, k: k, fresh=False)
    for action in (-1, 1, 0.999999):
        envs.step(np.full((1, 3), action, np.float32))  # it asserts that its space contains them
    envs.close()


def test_observations_are_copied():
    envs = Envs(EnvSpec(f"{ODD}:KeepsItsObservation"), 1, lambda i, k: k, fresh=False)
    first = envs.obs
    kept = first.copy()
    envs.step(actions_for(envs, 1)[0])
    envs.close()
    np.testing.assert_array_equal(first, kept)


# ---- What `t3d check` says of them


def test_check_judges_as_training_does(capsys):
    numbers = {finding.name: finding for finding in check(EnvSpec(f"{OWN}:RewardArray"), 60)}["numbers"]
    assert numbers.verdict == "fails"
    assert "step 29: the environment's reward is of the wrong kind" in numbers.text
    assert command(["check", f"{OWN}:NanObs", "--steps", "60"]) == 1
    assert command(["check", f"{OWN}:NanObs", "--steps", "9"]) == 0  # it is odd at the thirtieth step
    capsys.readouterr()
    assert command(["check", f"{OWN}:Walk", "--steps", "20", "--json"]) == 0
    assert '"verdict": "ok"' in capsys.readouterr().out


# ---- Processes


def test_a_dead_worker_is_told_at_once_though_a_child_of_its_own_holds_its_socket():
    envs = Envs(EnvSpec(f"{ODD}:Forks"), 1, lambda i, k: k, fresh=False, workers=1, timeout_s=15)
    with pytest.raises(EnvFailed, match="worker process exited with code 3"):
        for action in actions_for(envs, 40):
            if envs.step(action).episodes:
                envs.reset(np.ones(1, bool))
    envs.close()


def test_an_evaluation_is_not_torn_by_what_closes_badly():
    seen = evaluate(lambda obs: np.zeros((1, 3), np.float32), f"{ODD}:CloseRaises", episodes=2, seed=0, fresh=True)
    assert seen.lengths == [20, 20]


# ---- The working directory


def test_a_run_stays_where_it_was_begun(tmp_path, monkeypatch, capsys):
    """The environment goes elsewhere in every reset, and finds itself there in every step."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(ODD).parent)])
    (tmp_path / "robot.py").write_text("from odd_envs import ChangesFolder\n")
    words = ["--steps", "60", "--random-steps", "20", "--batch-size", "8", "--hidden", "4", "--eval-episodes", "1"]
    assert command(["train", "robot.py:ChangesFolder", "--out", "run", *words, "--no-video"]) == 0
    assert Path.cwd() == tmp_path
    said = capsys.readouterr().out
    assert "folder      run\n" in said
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"checkpoints", "metrics.jsonl", "report.html"}
    assert not (Path(tempfile.gettempdir()) / "run").exists()
    assert command(["evaluate", "run", "--env", "robot.py:ChangesFolder", "--episodes", "2"]) == 0


# ---- What others do to its files


@pytest.mark.parametrize("how", ["removed", "cut"])
def test_a_segment_that_loses_what_was_written_is_an_error_and_never_zeros(tmp_path, how):
    run = session(tmp_path / "run", f"{OWN}:Walk", checkpoint_every=20)
    segment = tmp_path / "run" / "replay" / "00000000.rows"
    with pytest.raises(SaveFailed, match=r"00000000\.rows"):
        for row in run.run():
            if row["env_steps"] == 40 and segment.exists():
                segment.write_bytes(segment.read_bytes()[:100]) if how == "cut" else segment.unlink()
    assert not segment.exists() or segment.stat().st_size == 100
    with pytest.raises(RunRefused):
        session(tmp_path / "run", f"{OWN}:Walk", resume=True, checkpoint_every=20)


def test_a_forked_process_writes_nothing(tmp_path):
    run = session(tmp_path / "run", f"{OWN}:Walk", checkpoint_every=20)
    rows = run.run()
    for row in rows:
        if row["env_steps"] == 20:
            break
    # TensorBoard's files are written by a thread, some time.
    kept = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and "tensorboard" not in path.parts]
    before = {path: path.read_bytes() for path in kept}
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            run._store._waiting.clear()
            saved = run._store.commit(run.trainer, run.progress)
            run._store.close()
            code = 0 if saved is False and "was forked" in run._store.problem else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert {path: path.read_bytes() for path in before} == before
    rows.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody can tell where a moved folder is")
@pytest.mark.parametrize("instead", ["nothing", "an empty folder", "a copy"])
def test_a_folder_that_is_moved_is_saved_where_it_is_and_what_stands_in_its_place_is_left_alone(tmp_path, instead):
    expected = ended(tmp_path / "whole", f"{OWN}:Walk", checkpoint_every=20)
    run = session(tmp_path / "run", f"{OWN}:Walk", checkpoint_every=20)
    with pytest.raises(
        SaveFailed, match=r"was moved(.|\n)*run is now .*elsewhere(.|\n)*t3d resume .*elsewhere"
    ) as failed:
        for row in run.run():
            if row["env_steps"] == 20 and not (tmp_path / "elsewhere").exists():
                (tmp_path / "run").rename(tmp_path / "elsewhere")
                if instead == "an empty folder":
                    (tmp_path / "run").mkdir()
                elif instead == "a copy":
                    shutil.copytree(tmp_path / "elsewhere", tmp_path / "run")
                before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert failed.value.exit_code == 1
    assert run.path == tmp_path / "elsewhere"
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    resumed = session(tmp_path / "elsewhere", f"{OWN}:Walk", resume=True, checkpoint_every=20)
    for _ in resumed.run():
        pass
    assert digest(resumed.trainer.agent) == expected


def test_a_folder_that_is_removed_is_an_error(tmp_path):
    run = session(tmp_path / "run", f"{OWN}:Walk", checkpoint_every=20)
    run._store.metrics.tensorboard.give_up()  # its own thread would say so as well
    with pytest.raises(SaveFailed):
        for row in run.run():
            if row["env_steps"] == 20 and (tmp_path / "run").exists():
                shutil.rmtree(tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- Episodes that never end


def test_a_limit_truncates_in_training_and_in_evaluations(tmp_path):
    run = session(tmp_path, f"{OWN}:Endless", max_episode_steps=12, eval_every=30)
    rows = list(run.run())
    episodes = [row for row in rows if row["kind"] == "episode"]
    assert [(row["length"], row["end"]) for row in episodes] == [(12, "truncated")] * 5
    assert [row["lengths"] for row in rows if row["kind"] == "evaluation"] == [[12], [12]]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_without_one_an_evaluation_ends_all_the_same_and_says_so_once(tmp_path, monkeypatch, workers):
    monkeypatch.setattr("t3d.training.evaluation._LEAST_PATIENCE", 70)
    rows = list(session(tmp_path, f"{OWN}:Endless", eval_every=30, env_workers=workers).run())
    assert [row["lengths"] for row in rows if row["kind"] == "evaluation"] == [[70], [70]]
    said = [row["what"] for row in rows if row["kind"] == "event"]
    api.evaluate_run(tmp_path, "last", episodes=1, env=EnvSpec(f"{OWN}:Endless"))  # it ends
    assert said == ["an evaluation episode did not end within 70 steps and was cut; --max-episode-steps sets a limit"]


def test_ten_times_the_longest_training_episode_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("t3d.training.evaluation._LEAST_PATIENCE", 5)
    rows = list(session(tmp_path, f"{OWN}:Walk", eval_every=30).run())
    assert [row["lengths"] for row in rows if row["kind"] == "evaluation"] == [[20], [20]]
    resumed = session(tmp_path, f"{OWN}:Walk", eval_every=30, resume=True, steps=90)
    assert resumed._store.metrics.longest_episode == 20


# ---- Observations of several parts


def test_a_dict_is_taken_part_by_part_in_the_order_of_its_names():
    envs = Envs(EnvSpec(f"{ODD}:Goal"), 2, lambda i, k: 10 * i + k, fresh=False)
    names = [(part.name, part.shape) for part in envs.spaces.obs]
    assert names == [("obs/achieved", (1,)), ("obs/goal/0", (2,)), ("obs/goal/1", ()), ("obs/observation", (2, 2))]
    envs.step(actions_for(envs, 1)[0])
    at = np.stack([env.at for env in envs._envs.envs]).astype(np.float32)
    np.testing.assert_array_equal(envs.obs, np.concatenate([at[:, :1], at[:, 1:3], at[:, 3:], at], axis=1))
    envs.close()


def test_it_is_learned_from_resumed_and_played_by_the_policy_as_it_is(tmp_path, capsys):
    expected = ended(tmp_path / "whole", f"{ODD}:Goal", checkpoint_every=20)
    rows = session(tmp_path / "run", f"{ODD}:Goal", checkpoint_every=20).run()
    for row in rows:
        if row["env_steps"] >= 40:
            rows.close()
    assert ended(tmp_path / "run", f"{ODD}:Goal", resume=True, checkpoint_every=20) == expected
    policy = t3d.load(tmp_path / "run")
    seen = odd_envs.Goal().reset(seed=1)[0]
    action = policy(seen)
    assert odd_envs.Goal.action_space.contains(action)
    batch = {"observation": np.stack([seen["observation"]] * 3), "achieved": np.stack([seen["achieved"]] * 3)}
    batch["goal"] = tuple(np.stack([part] * 3) for part in seen["goal"])
    np.testing.assert_allclose(policy(batch), np.stack([action] * 3), atol=1e-6)
    with pytest.raises(ValueError, match=r"parts achieved \(1,\), goal/0 \(2,\)"):
        policy(np.zeros(8))
    with pytest.raises(ValueError, match="of different numbers"):
        policy(batch | {"achieved": seen["achieved"]})
    words = ["--env", f"{ODD}:Goal", "--episodes", "1"]
    assert command(["evaluate", str(tmp_path / "run"), *words]) == 0
    assert command(["check", f"{ODD}:Goal", "--steps", "30"]) == 0
    assert "8 numbers, parts achieved (1,)" in " ".join(capsys.readouterr().out.split())


def test_a_part_that_is_gone_is_named():
    envs = Envs(EnvSpec(f"{ODD}:LosesAPart"), 1, lambda i, k: k, fresh=False)
    with pytest.raises(EnvFailed, match=r"expected: one with the part obs/achieved, as its space says"):
        for action in actions_for(envs, 6):
            envs.step(action)
    envs.close()


@pytest.mark.parametrize(("name", "says"), [("SlashInAKey", "no plain name"), ("NoEnd", "Sequence observations")])
def test_parts_that_cannot_be_taken_are_refused(name, says):
    with pytest.raises(EnvRefused, match=says):
        Envs(EnvSpec(f"{ODD}:{name}"), 1, lambda i, k: k, fresh=False)


# ---- Names that are no text


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file's name is text")
def test_a_folder_whose_name_is_no_text_holds_a_run_like_any_other(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "robot.py").write_text("from own_envs import Raises\n")
    env = f"{folder / 'robot.py'}:Raises"
    with pytest.raises(EnvFailed, match="the motor is stuck"):
        ended(folder / "run", env, eval_every=10)
    assert session(folder / "run", env, resume=True, eval_every=10).resumed_at == 29
    assert "caf?" in write_report([folder / "run"]).read_text("utf-8")
