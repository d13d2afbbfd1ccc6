"""kill -9 at any instant: the run is resumed as often as it takes, and ends with what the undisturbed run ends with."""

import itertools
import time

import numpy as np
import pytest
from crash_lives import flags
from crash_runs import ends_with

LEARNS = {
    "preset": "td3",
    "steps": 800,
    "random_steps": 500,
    "batch_size": 16,
    "buffer_size": 700,  # goes round before the end
    "hidden": (16, 16),
    "checkpoint_every": 90,
    "eval_every": 350,
    "eval_episodes": 1,
    "log_every": 100,
    "threads": 1,
}
# The fast suite's: half a second in all.
BRIEF = LEARNS | {
    "steps": 300,
    "random_steps": 200,
    "buffer_size": 260,
    "checkpoint_every": 40,
    "eval_every": 130,
    "log_every": 150,
}
WHERE = ("anywhere", "training", "anywhere", "evaluating", "anywhere", "saving", "anywhere", "resuming")
MOST_KILLS = 8  # of one run
# The hopper is made anew for each episode; they are short, where one of PyBullet's ant takes two seconds.
CASES = list(itertools.product(("InvertedPendulum-v5", "HopperBulletEnv-v0"), (1, 4), ("eager", "fused")))


def kill(life, where, rng, usual_s):
    """Kill a process somewhere, unless it is over before."""
    if where == "anywhere":
        until = time.monotonic() + rng.uniform(0, usual_s)
        life.until(lambda: time.monotonic() > until)
    elif life.until(lambda: life.phase == where):
        time.sleep(rng.uniform(0, 0.004))
    life.send("SIGKILL")
    return life.wait()


def undisturbed(server, folder, case, learns):
    """Return how the run is begun and resumed, what it ends with, and how long it takes."""
    env, n_envs, engine = case
    options = [env, *flags({**learns, "n_envs": n_envs, "engine": engine}), "--resume", "auto", "--out"]
    began = time.monotonic()
    life = server.start("train", *options, folder / "undisturbed")
    assert life.wait() == 0, life.said
    return options, ends_with(folder / "undisturbed"), time.monotonic() - began


def kill_often(server, folder, kills, case, learns=LEARNS):
    options, expected, whole_s = undisturbed(server, folder, case, learns)
    usual_s = 0.6 * whole_s
    rng, where, killed = np.random.default_rng(kills), itertools.cycle(WHERE), {}
    for run in (folder / str(number) for number in itertools.count()):
        for attempt in itertools.count():
            life, place = server.start("train", *options, run), next(where)
            goes_on = attempt < MOST_KILLS and sum(killed.values()) < kills
            code = kill(life, place, rng, usual_s) if goes_on else life.wait()
            if code == 0:
                break
            assert code == -9, life.said
            killed[place] = killed.get(place, 0) + 1
        assert "damaged" not in life.said
        assert "cannot be used" not in life.said
        assert "not bit for bit" not in life.said
        assert ends_with(run) == expected, (run, killed)
        if sum(killed.values()) >= kills:
            break
    assert kills < len(WHERE) or set(killed) == set(WHERE), killed


@pytest.mark.parametrize(("case", "kills"), [(CASES[0], 4), (CASES[3], 5)], ids=str)
def test_a_few_kills(server, folder, case, kills):
    kill_often(server, folder, kills, case, BRIEF)


@pytest.mark.parametrize("case", [pytest.param(CASES[0], marks=pytest.mark.slow), CASES[3]], ids=str)
def test_a_few_kills_of_a_run_that_normalises(server, folder, case):
    kill_often(server, folder, 3, case, BRIEF | {"normalize_obs": True})


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_25_kills_each_200_in_all(server, folder, case):
    kill_often(server, folder, 25, case)
