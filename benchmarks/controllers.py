"""How long a trained policy takes to answer, as t3d.load and as each export, and what these reach.

The latency of calls with one observation each, in turns, alone and with the other cores busy; what a program takes that
only loads a policy; and the returns of exported controllers in the evaluation's own episodes beside the recorded one.

python benchmarks/controllers.py --play HalfCheetah-v5=runs/HalfCheetah-v5/td3-s0 --peers .venv-peers/bin/python

Results go to benchmarks/results/controllers.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

import t3d
from t3d.config import TD3Config
from t3d.env_spec import EnvSpec, View
from t3d.export import self_check
from t3d.formats import PolicyInfo
from t3d.machine import describe
from t3d.networks import Actor
from t3d.policy.files import encode
from t3d.policy.latency import others_busy
from t3d.policy.torch_nets import arrays_of
from t3d.presets import choose
from t3d.runs.exports import export_policy
from t3d.spaces import Spaces
from t3d.training import evaluation

RESULT = Path(__file__).with_name("results") / "controllers.json"
ROUNDS, CALLS = 10, 1_000
PEERS_CALLS = 200  # a round: it takes all cores for each
LOADS = 11
OBS, ACTIONS = 17, 6  # HalfCheetah-v5's
STRICT = ["-std=c99", "-O2", "-D_POSIX_C_SOURCE=200112L"]

C_CLOCK = """
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "policy.h"
int main(void)
{
    static float obs[CALLS][T3D_POLICY_OBS_SIZE], action[T3D_POLICY_ACTION_SIZE];
    for (int k = 0; k < CALLS; k++)
        for (int i = 0; i < T3D_POLICY_OBS_SIZE; i++) obs[k][i] = (float)rand() / (float)RAND_MAX * 4.0f - 2.0f;
    while (getchar() != EOF) {
        for (int k = 0; k < CALLS; k++) {
            struct timespec a, b;
            clock_gettime(CLOCK_MONOTONIC, &a);
            t3d_policy_act(obs[k], action);
            clock_gettime(CLOCK_MONOTONIC, &b);
            printf("%.3f ", (double)(b.tv_sec - a.tv_sec) * 1e6 + (double)(b.tv_nsec - a.tv_nsec) / 1e3);
        }
        printf("\\n");
        fflush(stdout);
    }
    return (int)action[0] > 9;
}
"""

SB3_CLOCK = """
import sys, time
import gymnasium, numpy as np
from stable_baselines3 import TD3
env = gymnasium.make("HalfCheetah-v5")
model = TD3("MlpPolicy", env, policy_kwargs={"net_arch": [256, 256]}, device="cpu")
obs = np.random.default_rng(0).normal(size=(CALLS, 17)).astype(np.float32)
for line in sys.stdin:
    spans = []
    for row in obs:
        began = time.perf_counter()
        model.predict(row, deterministic=True)
        spans.append((time.perf_counter() - began) * 1e6)
    print(*spans, flush=True)
"""


def fresh(path: Path) -> Path:
    """Write a policy of HalfCheetah's sizes and two hidden layers of 256. Return its file."""
    spaces, hidden = Spaces.of_vectors(OBS, ACTIONS), (256, 256)
    info = PolicyInfo(
        run="0" * 64,
        env="HalfCheetah-v5",
        algorithm="TD3",
        architecture="mlp",
        obs=spaces.obs,
        view=View(),
        action_shape=spaces.action_shape,
        action_low=spaces.action_low,
        action_high=spaces.action_high,
        period_s=0.05,
        hidden=hidden,
        layer_norm=False,
        embedding=256,
        env_steps=0,
        return_mean=None,
    )
    net = Actor(spaces, TD3Config(hidden=hidden), np.random.default_rng(0))
    path.write_bytes(encode(info, arrays_of(net)))
    return path


def module_at(path: Path) -> Any:
    """Import the Python file of an export."""
    spec = importlib.util.spec_from_file_location("exported_policy", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_python(act: Callable[[Any], Any]) -> Callable[[], list[float]]:
    """Return what times CALLS calls, in microseconds."""
    rows = np.random.default_rng(0).normal(size=(CALLS, OBS)).astype(np.float32)

    def timed() -> list[float]:
        spans = []
        for row in rows:
            began = time.perf_counter()
            act(row)
            spans.append((time.perf_counter() - began) * 1e6)
        return spans

    return timed


def in_child(child: subprocess.Popen[str]) -> Callable[[], list[float]]:
    """Return what lets a child time CALLS calls."""

    def timed() -> list[float]:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write("\n")
        child.stdin.flush()
        return [float(word) for word in child.stdout.readline().split()]

    return timed


def started(command: list[str]) -> subprocess.Popen[str]:
    """Start a child that is told to time by lines."""
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def latencies(place: Path, file: Path, peers: str) -> dict[str, Any]:
    """Return median, 99th percentile and worst of each way to play, alone and with the other cores busy."""
    policy = t3d.load(file)
    for kind in ("c", "numpy", "onnx"):
        export_policy(file, kind, out=place / kind)
    (place / "clock.c").write_text(f"#define CALLS {CALLS}\n{C_CLOCK}")
    subprocess.run(["cc", *STRICT, f"-I{place / 'c'}", place / "clock.c", "-o", place / "clock", "-lm"], check=True)
    run_onnx, _ = self_check.with_onnxruntime(policy, (place / "onnx" / "policy.onnx").read_bytes())
    ways = {
        "t3d.load": in_python(policy),
        "NumPy file": in_python(module_at(place / "numpy" / "policy.py").act),
        "ONNX Runtime, one thread": in_python(lambda row: run_onnx(row[None])),
        "C, `cc -O2`": in_child(started([str(place / "clock")])),
    }
    if peers:
        code = f"CALLS = {PEERS_CALLS}\n{SB3_CLOCK}"
        ways["Stable-Baselines3's predict"] = in_child(started([peers, "-c", code]))
    seen: dict[str, Any] = {name: {} for name in ways}
    for when in ("alone", "busy"):
        spans: dict[str, list[float]] = {name: [] for name in ways}
        with others_busy() if when == "busy" else nullcontext():
            for timed in ways.values():
                timed()  # warm
            for _ in range(ROUNDS):
                for name, timed in ways.items():
                    spans[name] += timed()
        for name, one in spans.items():
            median, p99, worst = np.quantile(one, [0.5, 0.99, 1.0]).tolist()
            seen[name][when] = {"median_us": median, "p99_us": p99, "worst_us": worst}
    return seen


def loading(place: Path, file: Path) -> dict[str, Any]:
    """Return what a program takes that loads a policy and asks it once: seconds and bytes, above Python's own."""
    code = (
        "import json, time, psutil\n"
        "own = psutil.Process(); began, had = time.perf_counter(), own.memory_info().rss\n"
        "{load}\n"
        "print(json.dumps([time.perf_counter() - began, own.memory_info().rss - had, time.process_time()]))\n"
    )
    ways = {
        "t3d.load": f"import t3d; t3d.load({str(file)!r})([0.0] * {OBS})",
        "NumPy file": f"import sys; sys.path.insert(0, {str(place / 'numpy')!r})\n"
        f"import policy; policy.act([0.0] * {OBS})",
        "ONNX Runtime": "import numpy as np, onnxruntime\n"
        f"onnxruntime.InferenceSession({str(place / 'onnx/policy.onnx')!r}).run("
        f"None, {{'obs': np.zeros((1, {OBS}), np.float32)}})",
        "PyTorch, imported": "import torch",
    }
    seen = {}
    for name, load in ways.items():
        rows = [
            json.loads(
                subprocess.run([sys.executable, "-c", code.format(load=load)], capture_output=True, check=True).stdout
            )
            for _ in range(LOADS)
        ]
        seen[name] = {
            "s": statistics.median(row[0] for row in rows),
            "bytes": statistics.median(row[1] for row in rows),
            "cpu_s": statistics.median(row[2] for row in rows),
        }
    return seen


def played(place: Path, name: str, path: Path) -> dict[str, Any]:
    """Return what each export of a policy reaches in the episodes of an evaluation, and what was recorded."""
    policy, env = t3d.load(path), EnvSpec(name)
    config = choose(env).config
    for kind in ("c", "numpy", "onnx"):
        export_policy(path, kind, out=place / kind)
    main = place / "c" / "main.c"
    subprocess.run(["cc", *STRICT, main, "-o", place / "main", "-lm"], check=True)
    child = started([str(place / "main")])

    def ask_c(obs: Any) -> Any:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(" ".join(map(float.hex, obs[0].astype(np.float64).tolist())) + "\n")
        child.stdin.flush()
        return np.array([child.stdout.readline().split()], np.float32)

    run_onnx, _ = self_check.with_onnxruntime(policy, (place / "onnx" / "policy.onnx").read_bytes())
    numpy_file = module_at(place / "numpy" / "policy.py")
    ways = {"t3d.load": policy.of_flat, "C": ask_c, "NumPy file": numpy_file.act, "ONNX Runtime": run_onnx}
    spaces, rows = policy.info.spaces, {}
    for way, act in ways.items():
        seen = evaluation.evaluate(
            lambda obs, act=act: spaces.from_env_units(act(obs)),
            env,
            episodes=config.eval_episodes,
            seed=0,
            fresh=config.fresh_envs,
        )
        rows[way] = {"return_mean": seen.return_mean, "return_std": seen.return_std}
    child.kill()
    return {"env": name, "env_steps": policy.info.env_steps, "recorded": policy.info.return_mean, "exported": rows}


def as_table(result: dict[str, Any]) -> str:
    """Return a result for docs/deploy.md."""
    machine = result["machine"]
    lines = ["| | alone: median, 99 % below, worst | other cores busy |", "|---|---:|---:|"]
    for name, row in result["latency"].items():
        cells = [", ".join(f"{row[when][key]:,.0f}" for key in ("median_us", "p99_us", "worst_us")) for when in row]
        lines.append(f"| {name} | {' | '.join(f'{cell} µs' for cell in cells)} |")
    made = f"{machine['processor']}, {machine['cores']} cores"
    lines += [
        "",
        f"Two hidden layers of 256 for HalfCheetah-v5; {result['calls']:,} calls "
        f"of one observation each, {ROUNDS * PEERS_CALLS:,} of Stable-Baselines3's, in turns. "
        f"{made}; {result['note']}.",
        "",
        "| a program that only loads a policy | it took | processor time, all of it | memory above Python's own |",
        "|---|---:|---:|---:|",
    ]
    for name, row in result["loading"].items():
        lines.append(f"| {name} | {row['s']:.2f} s | {row['cpu_s']:.2f} s | {row['bytes'] / 1e6:.0f} MB |")
    ways = list(result["played"][0]["exported"])
    lines += [
        "",
        f"| return, mean ± spread of 10 episodes | recorded | {' | '.join(ways)} |",
        "|---|---:" + "|---:" * len(ways) + "|",
    ]
    for row in result["played"]:
        cells = [row["exported"][way] for way in ways]
        means = " | ".join(f"{cell['return_mean']:,.3f} ± {cell['return_std']:,.0f}" for cell in cells)
        name = f"{row['env'].split(':')[-1]}, {row['env_steps']:,} steps"
        lines.append(f"| {name} | {row['recorded']:,.3f} | {means} |")
    lines += ["", "[`benchmarks/controllers.py`](../benchmarks/controllers.py) measures it anew."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure everything and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--play", action="append", default=[], metavar="ENV=RUN|FILE")
    parser.add_argument("--peers", default="", help="a Python with Stable-Baselines3")
    parser.add_argument("--note", default="", help="what a reader must know of the machine meanwhile")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        file = fresh(place / "policy.safetensors")
        result: dict[str, Any] = {
            "machine": describe(),
            "calls": ROUNDS * CALLS,
            "note": args.note,
            "latency": latencies(place, file, args.peers),
        }
        result["loading"] = loading(place, file)
        result["played"] = []
        for number, (name, _, path) in enumerate(one.partition("=") for one in args.play):
            (place / str(number)).mkdir()
            result["played"].append(played(place / str(number), name, Path(path)))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
