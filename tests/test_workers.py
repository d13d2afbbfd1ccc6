"""Worker processes: the same bits as in one process, and every way in which an environment can take one down."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from test_determinism import digest
from test_envs import PLAY, actions_for, buffered, play, same

from t3d.cli.main import run
from t3d.config import Config, TD3Config
from t3d.env_spec import EnvSpec
from t3d.environments import worker_pool
from t3d.environments.envs import Envs
from t3d.errors import EnvFailed, EnvRefused, Refused
from t3d.presets import Choice
from t3d.replay import STEP
from t3d.runs.session import Session
from t3d.training.evaluation import evaluate
from t3d.training.randomness import episode_seed
from t3d.training.trainer import Trainer

OWN = str(Path(__file__).with_name("own_envs.py"))
SEED_OF = functools.partial(episode_seed, 5)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc; elsewhere workers are not tested")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Whatever a test does: no child, no descriptor, no shared memory stays behind."""

    def here():
        maps = Path("/proc/self/maps").read_text().count("t3d-envs")
        return maps, {child.pid for child in psutil.Process().children()}, len(list(Path("/proc/self/fd").iterdir()))

    import_once()
    before, named = here(), shared_memory()
    yield
    assert here() == before
    assert shared_memory() <= named


def shared_memory():
    """Return what has a name there, but the folders of the crash tests, which may run at the same time."""
    return {path for path in Path("/dev/shm").iterdir() if not path.name.startswith("t3d-crash-")}


@functools.cache
def import_once():
    """Let libraries open what they keep open."""
    Envs(EnvSpec("InvertedPendulum-v5"), 1, SEED_OF, fresh=False).close()


def pids(envs):
    return [worker.process.pid for worker in envs._envs._workers]


# --- the same bits ---------------------------------------------------------------------------------------------


def trained(env, n_workers, **options):
    td3 = TD3Config(hidden=(16, 16), lr=1e-3)
    config = Config(n_envs=4, random_steps=100, batch_size=16, env_workers=n_workers, td3=td3, **options)
    made = Trainer(EnvSpec(env), config)
    episodes = []
    while made.env_steps < 400:
        episodes += made.step()
    made.envs.close()
    assert made.agent.updates == 300
    return digest(made.agent), episodes


@pytest.mark.slow  # the fast suite compares whole runs below
@pytest.mark.parametrize("n_workers", [1, 2])
def test_training_is_the_same_to_the_bit_with_any_number_of_workers(n_workers):
    expected, episodes = trained("InvertedPendulum-v5", 0)
    assert {episode.env for episode in episodes} == {0, 1, 2, 3}
    assert len(episodes) > 8
    assert trained("InvertedPendulum-v5", n_workers) == (expected, episodes)


@pytest.mark.parametrize(
    ("env", "fresh"),
    [
        (f"{OWN}:Leaks", False),
        pytest.param("InvertedPendulumBulletEnv-v0", True, marks=pytest.mark.slow),
        pytest.param(f"{OWN}:Square", False, marks=pytest.mark.slow),
        pytest.param(f"{OWN}:Leaks", True, marks=pytest.mark.slow),
    ],
)
def test_what_is_seen_is_the_same_to_the_bit(env, fresh):
    seen = []
    for n_workers in (0, 2):
        envs = Envs(EnvSpec(env), 3, SEED_OF, fresh, workers=n_workers)
        seen.append(play(envs, actions_for(envs, 50)))
        envs.close()
    assert same(*seen)


def test_unfinished_episodes_are_played_again_in_workers():
    def play_on(envs, actions):
        return [(step.next_obs.tobytes(), step.reward.tobytes()) for step in map(envs.step, actions)]

    envs = Envs(EnvSpec(f"{OWN}:Leaks"), 2, SEED_OF, fresh=True, workers=2)
    play(envs, actions_for(envs, 20))
    actions = actions_for(envs, 12, seed=1)
    played = np.zeros((2, 7), [("obs", "f4", 4), ("action", "f4", 3), ("reward", "f4"), ("ended", "i4")])
    played["ended"] = STEP
    for k in range(7):
        played["obs"][:, k], played["action"][:, k] = envs.obs, actions[k]
        played["reward"][:, k] = envs.step(actions[k]).reward
    state, obs = envs.state, envs.obs
    expected = play_on(envs, actions[7:])
    envs.close()
    for n_workers in (0, 2):
        again = Envs(EnvSpec(f"{OWN}:Leaks"), 2, SEED_OF, fresh=True, workers=n_workers)
        assert again.restore(state, obs, list(played)) == [None, None]
        assert play_on(again, actions[7:]) == expected
        other = played.copy()
        other["reward"][1, 3] += 1
        assert again.restore(state, obs, list(other)) == [
            None,
            "environment 1, episode 1, step 4: another reward, or an end",
        ]
        again.close()


@pytest.mark.parametrize("n_workers", [0, 1])
def test_an_environment_may_keep_its_action(n_workers):
    envs = Envs(EnvSpec(f"{OWN}:KeepsItsAction"), 2, SEED_OF, fresh=False, workers=n_workers)
    actions = actions_for(envs, 6)
    rewards = [envs.step(action).reward for action in actions]
    envs.close()
    scaled = envs.spaces.to_env_units(actions)
    np.testing.assert_allclose(rewards[1:], np.abs(np.diff(scaled, axis=0)).sum(axis=2), rtol=1e-5)


def test_a_run_and_its_evaluations_are_the_same(tmp_path):
    seen = []
    for n_workers in (0, 2):
        options = {"n_envs": 3, "steps": 90, "random_steps": 50, "batch_size": 8, "eval_every": 60, "eval_episodes": 2}
        options |= {"action_repeat": 2}
        config = Config(**options, env_workers=n_workers, engine="eager", threads=1, td3=TD3Config(hidden=(8, 8)))
        session = Session(EnvSpec(f"{OWN}:Walk"), Choice("td3", config, "as asked"), tmp_path / str(n_workers))
        rows = list(session.run())
        seen.append([{name: value for name, value in row.items() if name != "wall_s"} for row in rows])
    assert seen[0] == seen[1]
    assert {row["length"] for row in seen[0] if row["kind"] == "episode"} == {10}  # decisions, of 20 frames
    assert {row["kind"] for row in seen[0]} == {"episode", "update", "evaluation", "health"}


def test_an_environment_is_found_as_this_process_would_find_it(tmp_path, monkeypatch):
    (tmp_path / "t3d_worker_robots.py").write_text(
        "import gymnasium\nfrom own_envs import Walk\ngymnasium.register('My/Worker-v0', Walk, max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    envs = Envs(EnvSpec("t3d_worker_robots:My/Worker-v0"), 2, SEED_OF, fresh=False, workers=1)
    ended = [envs.step(action) for action in actions_for(envs, 7)][-1]
    assert ended.truncated.all()
    envs.close()


def test_nothing_in_the_folder_it_is_called_in_stands_before_pythons_own(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')\n")
    monkeypatch.chdir(tmp_path)
    Envs(EnvSpec(f"{OWN}:Walk"), 1, SEED_OF, fresh=False, workers=1).close()


# --- what goes wrong -------------------------------------------------------------------------------------------


def failure(env, n_workers, n_envs=1, **options):
    """Train until the environment fails; return the error and the trainer."""
    config = Config(n_envs=n_envs, random_steps=1_000, buffer_size=1_000, env_workers=n_workers, **options)
    trainer = Trainer(EnvSpec(env), config)
    try:
        with pytest.raises(EnvFailed) as caught:
            for _ in range(100):
                trainer.step()
    finally:
        trainer.envs.close()
    return caught.value, trainer


@pytest.mark.parametrize(
    "name", ["RaisesInReset", *(pytest.param(n, marks=pytest.mark.slow) for n in ("NanObs", "Raises"))]
)
def test_a_failure_reads_as_in_one_process(name):
    expected, trainer = failure(f"{OWN}:{name}", 0, n_envs=3)
    error, other = failure(f"{OWN}:{name}", 2, n_envs=3)
    assert str(error) == str(expected)
    assert other.env_steps == len(other.replay) == trainer.env_steps == len(trainer.replay)
    assert (error.__cause__ is None) == (expected.__cause__ is None)
    if error.__cause__:
        assert "own_envs.py" in str(error.__cause__)
        assert str(expected.__cause__) in str(error.__cause__)


def test_a_first_reset_that_raises_reads_as_in_one_process():
    said = []
    for n_workers in (0, 1):
        with pytest.raises(EnvFailed) as caught:
            Envs(EnvSpec(f"{OWN}:RaisesInFirstReset"), 1, SEED_OF, fresh=False, workers=n_workers)
        said.append(str(caught.value))
    assert said[0] == said[1]


HUNG = "did not answer within 0.5 s, and its worker process was killed"


@pytest.mark.parametrize(
    ("name", "n_workers", "says"),
    [
        ("Exits", 1, "worker process exited with code 3"),
        ("Hangs", 1, HUNG),
        pytest.param("Aborts", 2, "worker process was killed by SIGABRT", marks=pytest.mark.slow),
        pytest.param("HangsInPython", 2, HUNG, marks=pytest.mark.slow),
    ],
)
def test_one_that_dies_or_hangs_is_named_with_where_and_nothing_is_stored(name, n_workers, says, monkeypatch):
    monkeypatch.setattr(worker_pool, "_CLOSING_S", 0.3)  # with two workers, two hang
    error, trainer = failure(f"{OWN}:{name}", n_workers, n_envs=2, env_timeout=0.5)
    scaled = [0.5, 0.4, 2.0]  # bounds are [0, 1], [-0.4, 0.4] and [-2, 2]
    for part in [says, f"{OWN}:{name}, training environment ", "env step 59, episode 1, episode step 10"]:
        assert part in str(error)
    last = [float(number) for number in str(error).split("last action [")[1].split("]")[0].split(", ")]
    assert all(abs(a - 0.5 * (i == 0)) <= b for i, (a, b) in enumerate(zip(last, scaled, strict=True)))
    assert trainer.env_steps == len(trainer.replay) == 58
    assert error.__cause__ is None  # the command would print it
    with pytest.raises(EnvFailed, match=says):  # what is broken stays broken
        trainer.envs.step(actions_for(trainer.envs, 1)[0])


@pytest.mark.slow
def test_one_that_hangs_in_its_reset_or_while_it_is_made_is_named(monkeypatch):
    error, _ = failure(f"{OWN}:HangsInReset", 1, env_timeout=0.5)
    assert "did not answer within 0.5 s" in str(error)
    assert "env step 21, episode 1, episode step 0" in str(error)
    monkeypatch.setattr(worker_pool, "_MAKING_S", 0.5)
    monkeypatch.setattr(worker_pool, "_CLOSING_S", 0.1)
    with pytest.raises(EnvFailed, match=r"not made within 0.5 s(.|\n)*HangsWhenMade, while environment 0 "):
        Envs(EnvSpec(f"{OWN}:HangsWhenMade"), 2, SEED_OF, fresh=False, workers=2, timeout_s=0.5)


def test_one_that_exits_while_it_is_made_is_named():
    with pytest.raises(EnvFailed, match=r"exited with code 4(.|\n)*ExitsWhenMade, while environment 0 "):
        Envs(EnvSpec(f"{OWN}:ExitsWhenMade"), 1, SEED_OF, fresh=False, workers=1)


def test_one_that_is_killed_from_outside_is_named_at_the_next_step():
    envs = Envs(EnvSpec(f"{OWN}:Walk"), 4, SEED_OF, fresh=False, workers=2)
    action = actions_for(envs, 3)
    envs.step(action[0])
    before = envs.obs
    os.kill(pids(envs)[1], signal.SIGKILL)
    with pytest.raises(EnvFailed, match=r"killed by SIGKILL(.|\n)*environment 2, env step 5, episode 0, ep"):
        envs.step(action[1])
    assert envs.env_steps == 4
    assert envs.obs is before
    envs.close()


@pytest.mark.slow
def test_each_step_has_the_whole_limit_also_behind_a_slow_neighbour(monkeypatch):
    monkeypatch.setattr(worker_pool, "_SLICE_S", 0.1)
    envs = Envs(EnvSpec(f"{OWN}:Slow"), 2, SEED_OF, fresh=False, workers=1, timeout_s=1.1)  # 1.2 s for both
    envs.step(actions_for(envs, 1)[0])
    envs.close()


def test_a_worker_that_does_not_end_by_itself_is_killed(monkeypatch):
    monkeypatch.setattr(worker_pool, "_CLOSING_S", 0.3)
    Envs(EnvSpec(f"{OWN}:HangsWhenClosed"), 2, SEED_OF, fresh=False, workers=1).close()


def test_workers_end_with_their_owner_when_nobody_closes_them():
    envs = Envs(EnvSpec(f"{OWN}:Walk"), 2, SEED_OF, fresh=False, workers=2)
    processes = [psutil.Process(pid) for pid in pids(envs)]
    assert all(process.is_running() for process in processes)
    del envs
    assert not any(process.is_running() for process in processes)


@pytest.mark.parametrize("name", ["DiscreteActions", "NeedsArguments"])
def test_a_refusal_reads_as_in_one_process(name):
    said = []
    for n_workers in (0, 1):
        with pytest.raises(Refused) as caught:
            Envs(EnvSpec(f"{OWN}:{name}"), 1, SEED_OF, fresh=False, workers=n_workers)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_an_id_that_only_the_own_script_knows_is_refused_with_what_to_do():
    with pytest.raises(EnvRefused, match=r"no such environment(.|\n)*do: .*do not run your script: .*module:Id"):
        Envs(EnvSpec("OnlyHere-v0"), 2, SEED_OF, fresh=False, workers=2)


def test_an_evaluation_in_a_worker_names_what_fails():
    act = functools.partial(np.zeros, (1, 3), np.float32)
    with pytest.raises(EnvFailed, match=r"exited with code 3(.|\n)*evaluation environment 0, env step 30"):
        evaluate(lambda obs: act(), f"{OWN}:Exits", episodes=3, seed=0, fresh=False, in_worker=True)


def test_the_command_saves_and_exits_with_1(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    options = ["--n-envs", "2", "--env-workers", "2", "--env-timeout", "5", "--random-steps", "20", "--batch-size", "8"]
    assert run(["train", f"{OWN}:Raises", "--out", "run", *options]) == 1
    err = capfd.readouterr().err
    assert "t3d: the environment raised RuntimeError in step: the motor is stuck" in err
    assert 'raise RuntimeError("the motor is stuck")' in err  # the worker's own traceback
    assert (tmp_path / "run" / "policy" / "last.safetensors").is_file()


# --- processes and signals -------------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys, threading, time
import numpy as np
from t3d.env_spec import EnvSpec
from t3d.environments import worker_pool
from t3d.environments.envs import Envs
def make(name, workers=2, **options):
    return Envs(EnvSpec({own!r} + ":" + name), 2, lambda i, k: 10 * i + k, fresh=False, workers=workers, **options)
def step(envs, times):
    for _ in range(times):
        if envs.step(np.zeros((2, 3), np.float32)).episodes:
            envs.reset(np.ones(2, bool))
def tell(envs):
    print(*[worker.process.pid for worker in envs._envs._workers], flush=True)
"""


def script(text):
    command = [sys.executable, "-c", SCRIPT.format(own=OWN) + text]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # its new parent may be slow to reap it
    except psutil.NoSuchProcess:
        return True


IDLE, BUSY = "step(envs, 3); time.sleep(3600)", "step(envs, 100)"


# Busy is a step that never ends: the kernel's help. What starts workers in another thread than its main one has only
# the socket, of which no other worker may hold an end.
@pytest.mark.parametrize(
    ("doing", "in_thread", "n_workers"), [(IDLE, True, 2), pytest.param(BUSY, False, 1, marks=pytest.mark.slow)]
)
def test_workers_end_with_a_parent_that_is_killed(doing, in_thread, n_workers):
    text = f"envs = make('HangsInPython', {n_workers}); tell(envs); {doing}"
    if in_thread:
        text = f"threading.Thread(target=lambda: exec({text!r}, globals())).start()"
    parent = script(text)
    children = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(children) == n_workers
    time.sleep(0.3)  # into the step
    parent.kill()
    parent.wait()
    parent.stdout.close()
    parent.stderr.close()
    give_up = time.monotonic() + 10
    while not all(map(is_gone, children)):
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_signals_to_the_whole_group_stop_no_worker_not_even_while_it_starts():
    parent = script(
        """
heard = []
signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
for number in signals:
    signal.signal(number, lambda number, frame: heard.append(number))
starting = True
def strike():
    while starting:
        for number in signals:
            os.killpg(0, number)
        time.sleep(0.001)
thread = threading.Thread(target=strike, daemon=True)
thread.start()
envs = make("Walk")
starting = False
thread.join()
assert set(heard) == set(signals)
step(envs, 30)
for number in signals:
    os.killpg(0, number)
step(envs, 30)
envs.close()
print("went on")
"""
    )
    out, err = parent.communicate(timeout=60)
    assert (out, err, parent.returncode) == ("went on\n", "", 0)


@pytest.mark.slow
def test_time_in_which_the_whole_group_was_stopped_counts_for_nobody():
    parent = script(
        """
worker_pool._SLICE_S = 0.1
envs = make("Slow", timeout_s=1.1)
print("stop", flush=True)
step(envs, 1)
envs.close()
print("went on")
"""
    )
    parent.stdout.readline()
    time.sleep(0.2)
    os.killpg(parent.pid, signal.SIGSTOP)
    time.sleep(1.3)
    os.kill(parent.pid, signal.SIGCONT)  # it looks before a worker can answer
    time.sleep(0.3)
    os.killpg(parent.pid, signal.SIGCONT)
    out, err = parent.communicate(timeout=60)
    assert (out, err) == ("went on\n", "")


def test_a_worker_has_no_descriptor_of_its_parents(tmp_path):
    with (tmp_path / "lock").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        envs = Envs(EnvSpec(f"{OWN}:Walk"), 2, SEED_OF, fresh=False, workers=2)
        links = [str(link.readlink()) for pid in pids(envs) for link in Path(f"/proc/{pid}/fd").iterdir()]
        envs.close()
    assert links
    assert str(tmp_path / "lock") not in links
    assert len([link for link in links if link.startswith("socket:")]) == 2


def test_a_worker_loads_no_torch():
    code = "import sys, t3d.environments.worker; print(*{'torch', 'numba', 'rich', 'gymnasium'} & set(sys.modules))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.split() == ["gymnasium"]
    envs = Envs(EnvSpec(f"{OWN}:Walk"), 1, SEED_OF, fresh=False, workers=1)
    assert "libtorch" not in Path(f"/proc/{pids(envs)[0]}/maps").read_text()
    envs.close()


@pytest.mark.slow
def test_what_libraries_print_reaches_nobody_and_what_an_own_env_prints_is_shown(tmp_path):
    names = [f"{OWN}:Prints", "HalfCheetahBulletEnv-v0", "InvertedPendulum-v5", "BipedalWalker-v3"]
    code = PLAY.format(envs=names).replace("fresh=True", "fresh=True, workers=1")
    assert "workers=1" in code
    command = [sys.executable, "-c", code]
    child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=buffered())
    assert child.stdout.splitlines() == ["my own words", "my own words", *(f"played {env}" for env in names)]
    assert child.stderr == ""
    assert list(tmp_path.iterdir()) == []
