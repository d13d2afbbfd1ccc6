"""A corpus of hostile run folders, made from a good one: what a stranger who knows the formats could send.

`python tests/hostile.py GOOD_RUN` opens each with every command that should refuse it, and says how long that took
and how much memory more than before it needed.
"""

import contextlib
import io
import json
import os
import pickle
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from strangers import (
    NOT_DATA,
    NOT_JSON,
    NOT_TENSORS,
    Touch,
    both,
    copied_rows,
    deep,
    film_is_a_link,
    grow,
    instead,
    pipe_at,
    policy_json,
    rows_block,
    segment,
    with_config,
    with_manifest,
    with_manifests,
    with_metrics,
    with_policy,
    with_state,
    with_tensors,
    without_copies,
    write,
)

import t3d
from t3d.cli.main import run as run_command
from t3d.errors import T3DError

ALL = ("load", "evaluate", "video", "resume")
RECORD, POLICY, RESUME = ("evaluate", "video", "resume"), ("load", "evaluate", "video"), ("resume",)
REPORT = ("report",)
EVIL = "from pathlib import Path\nPath('executed').touch()\n"


def corpus():
    """Return {name: (commands that must refuse it, how it is made from a good run)}."""
    cases = {}

    def add(name, commands, make):
        assert name not in cases, name
        cases[name] = (commands, make)

    for what, content in {**NOT_DATA, **NOT_JSON}.items():
        add(f"config.json: {what}", RECORD + REPORT, both(without_copies, write("config.json", content)))
        add(f"policy json: {what}", POLICY, write("*st.json", content))
        add(f"manifest: {what}", RESUME, write("manifest.json", content))
    for what, content in {**NOT_DATA, **NOT_TENSORS}.items():
        add(f"state: {what}", RESUME, with_state(lambda _, content=content: content))
        add(f"policy: {what}", POLICY, with_policy(lambda _, content=content: content))
    for what, content in NOT_DATA.items():
        add(f"metrics: {what}", RESUME + REPORT, both(without_copies, write("metrics.jsonl", content)))
        add(f"metrics and their copy: {what}", RESUME + REPORT, write("metrics.[jc]*", content))
        add(f"segment: {what}", RESUME, write("*.rows", content))
    _add_configs(add)
    _add_copies(add)
    _add_without_checkpoints(add)
    _add_manifests(add)
    _add_policies(add)
    _add_files(add)
    return cases


def _add_configs(add):
    envs = ["evil:Pendulum-v1", "evil.py:Env", "../evil.py:Env", "/tmp/evil.py:Env", "os:system", "no-such-env", ""]
    for env in [*envs, "x" * 500_000, "CartPole-v1", "\x1b]0;title\x07-v0", 5, None, ["Pendulum-v1"], {"id": 1}]:
        add(f"env {str(env)[:30]!r}", RECORD, with_config("env", value=env))
    fields = ["env", "preset", "config", "engine", "machine", "format"]
    for field in fields:
        for value in (..., None, 3.5, "x" if field not in ("env", "preset") else [1]):
            if not (field in ("engine", "machine") and value is None):
                add(f"config.json: {field} is {value!r}", RECORD, with_config(field, value=value))
    for option in ("steps", "seed", "n_envs", "eval_episodes", "threads", "buffer_size", "td3", "device", "fresh_envs"):
        for value in (None, [], {}, -1, 10**400, "1; import os"):
            add(f"{option} is {str(value)[:20]}", RECORD, with_config("config", option, value=value))
    for option in ("hidden", "lr", "gamma", "layer_norm"):
        for value in (None, {}, -1, 10**400, "x", [[3]], [3.5], [2**40], [1] * 65):
            add(f"{option} is {str(value)[:20]}", RECORD, with_config("config", "td3", option, value=value))
    huge = {
        "hidden": [[2**20, 2**20], [40_000, 40_000], [2**20] * 64, [5_000] * 3],
        "n_envs": [10**6, 10**18],
        "buffer_size": [2**62, 10**12],
        "threads": [10**9],
        "device": ["cuda:7", "cuda:99999999999999999999"],
    }
    for option, values in huge.items():
        for value in values:
            way = ("config", "td3", option) if option == "hidden" else ("config", option)
            room = [with_config("config", "buffer_size", value=10**9)] if value == 10**6 else []
            add(f"{option} is {str(value)[:40]}, sealed", RESUME, both(*room, with_config(*way, value=value)))


def _add_copies(add):
    """What a run is mended by is a stranger's, too."""
    broken = write("config.json", b"{}")
    for value in (..., None, "x", 3, [], {}, {"format": 1}, {"a": [[[[]]]] * 1_000}):
        add(
            f"copy of config.json is {str(value)[:40]}",
            RECORD + REPORT,
            both(broken, with_manifest("run", value=value)),
        )
    ways = {("env",): "evil:Pendulum-v1", ("config", "n_envs"): 10**18, ("config", "td3", "hidden"): [2**40]}
    for way, value in ways.items():
        commands = RESUME if way[-1] == "n_envs" else RECORD  # an evaluation takes one environment
        add(f"copy of {way[-1]} is {value}", commands + REPORT, both(broken, with_manifest("run", *way, value=value)))
    rows = (b"[" * 100_000, b'{"kind": "update", "env_steps": 1, "q1": NaN}', b"")
    for row in rows:
        add(f"copy of a row is {row[:20]!r}", RESUME + REPORT, both(with_metrics(row + b"\n"), copied_rows))
    grown = both(grow("metrics.*"), with_manifest("metrics", "bytes", value=2**40))
    add("metrics and their copy of a terabyte", RESUME + REPORT, grown)
    for content in NOT_DATA.values():
        name = f"best policy's copy: {content[:20]!r}"
        tensor = torch.frombuffer(bytearray(content or b"?"), dtype=torch.uint8)
        changed = with_state(with_tensors(lambda t, tensor=tensor: t.update({"policy/best.safetensors": tensor})))
        add(name, POLICY, both(changed, write("best.safetensors", content)))
    strange = with_tensors(lambda t: t.update({"policy/best.json": torch.zeros(3, dtype=torch.bfloat16)}))
    add("best policy's copy is no bytes", RESUME, with_state(strange))
    large = with_tensors(lambda t: t.update({"policy/best.json": torch.zeros(1 << 27, dtype=torch.uint8)}))
    add("best policy's copy is large", RESUME, with_state(large))


def _add_without_checkpoints(add):
    ends = {
        "infinite": b'{"kind": "update", "env_steps": Infinity, "wall_s": 1}\n',
        "no row": b"[]\n",
        "a long number": b'{"kind": "update", "env_steps": 1, "q1": 1' + b"0" * 400 + b"}\n",
        "a pickle": pickle.dumps(Touch()) + b"\n",
        "deep": b"[" * 100_000 + b"\n",
    }
    for name, end in ends.items():
        add(f"no checkpoints, rows end with {name}", RESUME, both(gone, write("metrics.jsonl", end)))
    add("no checkpoints, rows of a terabyte", RESUME, both(gone, write("metrics.jsonl", b""), grow("metrics.jsonl")))


def gone(run):
    shutil.rmtree(run / "checkpoints")


def _add_manifests(add):
    for value in (..., None, "../..", [], 2**70):
        for field in ("number", "envs", "written", "progress", "metrics", "replay", "streams", "state", "updates"):
            add(f"manifest: {field} is {value!r}", RESUME, with_manifest(field, value=value))
    names = ["../../../victim", "/etc/hostname", "../metrics.jsonl", ".", "", "00000000.rows/../../victim"]
    for name in names:
        add(f"segment named {name!r}", RESUME, segment(name=name))
        add(f"segment named {name!r}, not needed", RESUME, segment(name=name, ends=[0, 0], bytes=0))
        # Before the true one: all it takes to be believed, if names are, is that it is not needed any more.
        extra = {"name": name, "bytes": 5, "ends": [0, 0]}
        before = with_manifests(lambda manifest, extra=extra: manifest["replay"]["segments"].insert(0, extra))
        add(f"segment named {name!r}, beside the true one", RESUME, before)
    add("segment of a terabyte", RESUME, both(grow("*.rows"), segment(bytes=2**40)))
    add("block of a terabyte", RESUME, both(rows_block, grow("*.rows"), segment(bytes=2**40)))
    add("written is a lot", RESUME, with_manifest("written", value=[2**62, 2**62]))
    add("updates are none", RESUME, with_manifest("updates", value=0))
    add("state of a terabyte", RESUME, both(grow("state.safetensors"), with_manifest("state", "bytes", value=2**40)))
    add(
        "metrics of a terabyte",
        RESUME + REPORT,
        both(grow("metrics.jsonl"), with_manifest("metrics", "bytes", value=2**40)),
    )
    add(
        "metrics of a pipe", RESUME + REPORT, both(pipe_at("metrics.jsonl"), with_manifest("metrics", "bytes", value=0))
    )
    rows = [b"[" * 100_000, b'{"kind": "update"}', b'{"kind": "event", "env_steps": 1' + b"0" * 300 + b"}", b"3"]
    rows += [b'{"kind": "update", "env_steps": 1, "q1": NaN}', b'{"kind": "../..", "env_steps": 1}', b"\xff\xfe"]
    for row in rows:
        add(f"metrics row {row[:45]!r}", RESUME + REPORT, with_metrics(row + b"\n"))
    for row in (b'{"kind": "update", "env_steps": 1}', b'{"kind": "update", "env_steps": 1, "wall_s": "x"}'):
        add(f"metrics row without a time, {len(row)} bytes", RESUME, with_metrics(row + b"\n"))
    surrogate = b'{"kind": "update", "env_steps": 1, "wall_s": 1.0, "\\ud800": 1.0}\n'
    add("metrics row with a name of no characters", RESUME, with_metrics(surrogate))
    for value in (1e999, -1e999):
        add(f"wall_s is {value}", RESUME, with_manifest("metrics", "wall_s", value=value))
        add(f"return is {value}", RESUME, with_manifest("envs", "return", value=[value, 0.0]))
    changes = {
        "NaN weights": lambda t: t["actor.body.0.weight"].fill_(float("nan")),
        "infinite moments": lambda t: t["critic_adam.q1_body.0.weight.exp_avg_sq"].fill_(float("inf")),
        "NaN observations": lambda t: t["obs"].fill_(float("nan")),
        "fewer": lambda t: t.pop("critic_target.q2_body.0.weight"),
        "more": lambda t: t.update(more=torch.zeros(3)),
        "other sizes": lambda t: t.update({"actor.body.0.weight": torch.zeros(3, 30)}),
        "float64": lambda t: t.update({"actor.body.0.weight": t["actor.body.0.weight"].double()}),
        "losses": lambda t: t.update(seen=torch.zeros(3, 4).double()),
        "an action": lambda t: t.update(action=torch.zeros(7, 1)),
        "observations of others": lambda t: t.update(obs=torch.zeros(3, 3)),
    }
    for name, change in changes.items():
        add(f"state: {name}", RESUME, with_state(with_tensors(change)))


def _add_policies(add):
    for field, values in {
        "hidden": [[2**20, 2**20], [2**20] * 50, [-1], "x", None, [2.5]],
        "obs_shape": [[2**20] * 4, [2**40], [0], [], 3],
        "action_low": [[None], ["x"], [1e999], [2.0, 2.0]],
        "format": [2, None],
        "env_steps": ["x", None, 1e999],
    }.items():
        for value in values:
            add(f"policy: {field} is {str(value)[:40]}", POLICY, policy_json(**{field: value}))
    add("policy of a gigabyte", POLICY, both(grow("*st.safetensors", 4 << 28), policy_json(hidden=[16_000, 16_000])))
    add("policy of a terabyte", POLICY, both(grow("*st.safetensors"), policy_json(hidden=[2**19, 2**19])))
    for name, change in {
        "NaN": lambda t: t["0.weight"].fill_(float("nan")),
        "whole numbers": lambda t: t.update({"0.bias": torch.zeros(len(t["0.bias"]), dtype=torch.int32)}),
        "other sizes": lambda t: t.update({"0.weight": t["0.weight"][:, :-1].contiguous()}),
        "fewer": lambda t: t.pop("0.weight"),
    }.items():
        add(f"policy weights: {name}", POLICY, with_policy(with_tensors(change)))


def _add_files(add):
    names = ["config.json", "policy", "checkpoints", "replay", "metrics.jsonl", "manifest.json", "state.safetensors"]
    names += ["metrics.copy", "*.rows", "best.json", "best.safetensors"]
    policies = ("policy", "best.json", "best.safetensors")
    reported = ("config.json", "metrics.jsonl", "checkpoints")
    for name in names:
        for kind in ("link", "link to a device", "pipe", "socket"):
            read = REPORT if name in reported and (kind == "link" or name != "checkpoints") else ()
            add(f"{name} is a {kind}", (ALL if name in policies else RECORD) + read, instead(name, kind))
    for name in ("config.json", "best.json", "best.safetensors"):
        add(f"{name} is a folder", POLICY if "best" in name else RECORD, instead(name, "folder"))
    for name in ("manifest.json", "state.safetensors", "*.rows", "metrics.jsonl"):
        add(f"{name} is a folder", RESUME, instead(name, "folder"))
    add("lock is a pipe", RECORD, pipe_at("lock"))
    add("lock is a folder", RESUME, lambda run: [(run / "lock").unlink(), (run / "lock").mkdir()])
    add("lock is a link", RECORD, lambda run: [(run / "lock").unlink(), (run / "lock").symlink_to("../victim")])
    add("video is a link", RECORD + REPORT, lambda run: (run / "video").symlink_to("../elsewhere"))
    add("a film is a link", RECORD + REPORT, film_is_a_link)
    add("a link among notes", RECORD, lambda run: (run / "notes.txt").symlink_to("../victim"))
    add("deep folders", RECORD, deep)


def attempt(command, run):
    """Open a run with a command in this process. Return its exit code and what it said on stderr."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        if command == "load":
            try:
                t3d.load(run)
                code = 0
            except T3DError as error:
                code = error.exit_code
                print(error, file=said)
        else:
            flags = {"evaluate": ["--episodes", "1"], "video": ["--video-frames", "2"], "resume": ["--no-video"]}
            flags["report"] = ["--json"]
            code = run_command([command, str(run), *flags[command]])
    return code, said.getvalue()


def sandbox(folder):
    """Make the place in which hostile runs are opened: modules that must not be imported, a file not to be touched."""
    for name in ("evil.py", "torch_plugin.py"):
        (folder / name).write_text(EVIL)
    (folder / "victim").write_text("untouched\n" * 1_000)
    (folder / "elsewhere").mkdir()


def main(good):
    here = Path(tempfile.mkdtemp())
    os.chdir(here)
    sandbox(here)
    for command in ("load", "evaluate", "resume", "report"):  # imports, and what only the first time takes
        shutil.copytree(good, here / "run")
        assert attempt(command, here / "run")[0] == 0
        shutil.rmtree(here / "run")
    rows = []
    for name, (commands, make) in corpus().items():
        for command in commands:
            shutil.copytree(good, here / "run")
            make(here / "run")
            before, began = peak_bytes(), time.perf_counter()
            code, _ = attempt(command, here / "run")
            took = time.perf_counter() - began
            rows.append({"case": name, "command": command, "code": code, "s": took, "bytes": peak_bytes() - before})
            for path in here.iterdir():
                if path.name.startswith("run"):
                    path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)
    assert (here / "victim").read_text() == "untouched\n" * 1_000
    assert not (here / "executed").exists()
    print(json.dumps(rows))


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    np.seterr(all="ignore")
    main(Path(sys.argv[1]).resolve())
