"""`t3d bench`: what it reports, not how fast."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import picture_envs
import psutil
import pytest
import torch
from test_policy import saved

from t3d.cli.main import run
from t3d.policy.latency import as_given, measure
from t3d.spaces import ObsPart, Spaces

SMALL = ["--hidden", "8", "8", "--batch-size", "8", "--threads", "1", "--json"]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    threads = torch.get_num_threads()
    for name, value in {
        "_ROUNDS": 2,
        "_SPAN_S": 0.01,
        "_RANDOM_STEPS": 20,
        "_WARM_STEPS": 5,
        "_TIMED_STEPS": 30,
    }.items():
        monkeypatch.setattr(f"t3d.bench.{name}", value)
    yield
    torch.set_num_threads(threads)


def bench(capsys, *arguments):
    assert run(["bench", *arguments, *SMALL]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_environment_is_trained_and_its_updates_are_timed(capsys):
    seen = bench(capsys, "Pendulum-v1")
    assert (seen["env"], seen["obs_size"], seen["action_size"]) == ("Pendulum-v1", 3, 1)
    assert seen["replay_bytes_per_slot"] == 4 * (3 + 1 + 2)
    assert seen["replay_full_bytes"] == 24 * seen["config"]["buffer_size"]
    assert set(seen["timings"]) == {"eager", "fused"}
    for timing in seen["timings"].values():
        assert timing["update_ms_p10"] <= timing["update_ms"] <= timing["update_ms_p90"]
        # A step consists of the environment, the updates and what is around them.
        assert 0 < timing["env_us"] + timing["around_us"] < 1e6 / timing["train_steps_per_s"]
    assert seen["machine"]["cores"] >= 1


def test_images_are_timed_as_they_are_trained(capsys):
    camera = [f"{picture_envs.__file__}:Camera", "--frame-size", "16"]
    seen = bench(capsys, *camera)
    assert (seen["config"]["train_at"], seen["config"]["buffer_size"], set(seen["timings"])) == (
        ("beside", 100_000, {"eager"})
    )
    assert seen["obs_size"] == 3 * 16 * 16 + 2  # three grey frames, and the joints
    timing = seen["timings"]["eager"]
    # What is made beside a step is neither the environment's time nor what is around.
    assert timing["env_us"] > 0 and timing["around_us"] > 0
    assert run(["bench", *camera, *SMALL[:-1]]) == 0
    assert "2 observations" in capsys.readouterr().out


def test_sizes_stand_in_for_an_environment_and_nothing_is_trained(capsys, monkeypatch):
    monkeypatch.setattr("t3d.bench.Trainer", None)
    seen = bench(capsys, "--sizes", "5", "2")
    assert (seen["env"], seen["obs_size"], seen["action_size"]) == (None, 5, 2)
    for timing in seen["timings"].values():
        assert timing["update_ms"] > 0
        assert not {"train_steps_per_s", "env_us", "around_us"} & set(timing)


def test_td7s_updates_are_timed_on_both_engines(capsys):
    seen = bench(capsys, "--sizes", "5", "2", "--algorithm", "td7", "--embedding", "8")
    assert seen["config"]["algorithm"] == "td7"
    assert all(seen["timings"][engine]["update_ms"] > 0 for engine in ("eager", "fused"))


@pytest.mark.parametrize("what", [["--sizes", "3", "1"], ["Pendulum-v1"]], ids=str)
def test_people_get_a_table(what, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["bench", *what, *SMALL[:-1]]) == 0
    said = capsys.readouterr().out
    assert "3 observations, 1 action" in said
    assert "p10-p90" in said
    assert ("env µs" in said) == (what == ["Pendulum-v1"])
    rows = re.findall(r"^ +(eager|fused) +1 +([\d.]+) +([\d.]+)-([\d.]+)", said, re.MULTILINE)
    assert [name for name, *_ in rows] == ["eager", "fused"], said
    for _, median, p10, p90 in rows:
        assert float(p10) <= float(median) <= float(p90)


@pytest.mark.parametrize(
    "wrong", [["Pendulum-v1", "--sizes", "3", "1"], ["--sizes", "0", "1"], ["Pendulum-v1", "--hardware"]], ids=str
)
def test_what_cannot_be_measured_is_refused(wrong, capsys):
    assert run(["bench", *wrong]) == 2
    assert "--sizes" in capsys.readouterr().err


def test_the_floor_counts_the_products_that_one_update_cannot_do_without(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1] / "benchmarks"), *sys.path])
    from floor import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, Product, measure, products

    assert all(measure(Product(kind, 4, 3, 2), 1, repeats=1) > 0 for kind in (FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT))
    found = products(17, 6, (256, 128), 100)
    # Two updates: a target actor, two target critics, two critics each; then once the actor and critic 1.
    assert found[Product(FORWARD, 100, 256, 128)] == 2 * (1 + 2 + 2) + 2
    assert found[Product(FORWARD, 100, 23, 256)] == 2 * (2 + 2) + 1
    assert found[Product(WEIGHT_GRADIENT, 100, 256, 128)] == 2 * 2 + 1
    assert found[Product(INPUT_GRADIENT, 100, 256, 128)] == 2 * 2 + 2
    assert found[Product(INPUT_GRADIENT, 100, 6, 256)] == 1  # the columns of the action
    assert found[Product(INPUT_GRADIENT, 100, 23, 256)] == 0
    kinds = itertools.groupby(sorted(found), key=lambda product: product.kind)
    assert {kind: sum(found[product] for product in group) for kind, group in kinds} == {0: 36, 1: 13, 2: 15}


# ---- a policy's answers


def test_a_policy_is_timed_alone_and_with_the_other_cores_busy(capsys, monkeypatch, tmp_path):
    saved(tmp_path)
    busy, before = [], children()  # other tests' servers may be among them
    monkeypatch.setattr("t3d.policy.latency.CALLS", 50)
    monkeypatch.setattr("t3d.policy.latency.measure", lambda policy: busy.append(children()) or measure(policy, 50))
    assert run(["bench", "--policy", str(tmp_path), "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert busy == [before, before + seen["busy_cores"]]
    assert children() == before
    for when in ("alone", "busy"):
        assert 0 < seen[when]["median_us"] <= seen[when]["p99_us"] <= seen[when]["worst_us"]
    assert run(["bench", "--policy", str(tmp_path)]) == 0
    assert re.search(r"  alone +median \d+ µs, 99th percentile [\d,]+ µs, worst [\d,]+ µs\n", capsys.readouterr().out)


def children():
    return len(psutil.Process().children())


def test_who_keeps_a_core_busy_ends_with_whom_it_serves():
    code = """
import os, psutil
from t3d.policy import latency
with latency.others_busy():
    print(*(child.pid for child in psutil.Process().children()), flush=True)
    os._exit(0)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split()
    left = [psutil.Process(int(pid)) for pid in said.split() if psutil.pid_exists(int(pid))]
    assert psutil.wait_procs(left, timeout=60)[1] == []


def test_what_is_timed_is_one_thing(capsys, tmp_path):
    assert run(["bench", "Pendulum-v1", "--policy", str(tmp_path)]) == 2
    assert "ENV and --policy" in capsys.readouterr().err


def test_an_observation_of_parts_is_given_as_a_dict():
    parts = (ObsPart(name="obs/arm", shape=(2,)), ObsPart(name="obs/goal/0", shape=(1, 2)))
    given = as_given([np.float32([1, 2]), np.float32([[3, 4]])], Spaces(parts, (1,), (-1.0,), (1.0,)))
    assert given["arm"].tolist() == [1, 2]
    assert given["goal"]["0"].tolist() == [[3, 4]]
