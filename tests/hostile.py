"""A corpus of hostile run folders, made from a good one: what a stranger who knows the formats could send.

`python tests/hostile.py GOOD_RUN` opens each with every command that should refuse it, and says how long that took
and how much memory more than before it needed.
"""

import contextlib
import io
import json
import math
import os
import pickle
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from strangers import (
    NOT_DATA,
    NOT_JSON,
    NOT_TENSORS,
    Touch,
    both,
    claimed,
    deep,
    film_is_a_link,
    grow,
    instead,
    of_another_run,
    picture_is_a_link,
    pipe_at,
    policy_info,
    segment,
    with_config,
    with_manifest,
    with_manifests,
    with_option_under_the_old_id,
    with_policy,
    with_policy_tensors,
    with_row,
    with_rows,
    with_segment,
    with_state,
    with_tensors,
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
        add(f"config.json: {what}", RECORD + REPORT, write("config.json", content))
        add(f"manifest: {what}", RESUME, write("manifest.json", content))
    for what, content in {**NOT_DATA, **NOT_TENSORS}.items():
        add(f"state: {what}", RESUME, with_state(lambda _, content=content: content))
        add(f"policy: {what}", POLICY, with_policy(lambda _, content=content: content))
    for what, content in NOT_DATA.items():
        # Nothing is left of the rows, or of the memory: a run that has ended is as good as it was.
        add(f"metrics: {what}", (), write("metrics.jsonl", content))
        add(f"segment: {what}", RESUME, write("*.rows", content))
    add("an option is changed and the run id is left", RECORD + REPORT, with_option_under_the_old_id)
    for part, commands in OTHERS.items():
        add(f"{part} of another run", commands, of_another_run(part))
    _add_configs(add)
    _add_without_checkpoints(add)
    _add_manifests(add)
    _add_rows(add)
    _add_policies(add)
    _add_files(add)
    return cases


OTHERS = {
    "config.json": RECORD + REPORT,
    "manifest.json": RESUME,
    "metrics.jsonl": RESUME + REPORT,
    "segment": RESUME,
    "policy": ("evaluate", "video"),
}


def _add_configs(add):
    envs = ["evil:Pendulum-v1", "evil.py:Env", "../evil.py:Env", "/tmp/evil.py:Env", "os:system", "no-such-env", ""]
    for env in [*envs, "x" * 500_000, "CartPole-v1", "\x1b]0;title\x07-v0", 5, None, ["Pendulum-v1"], {"id": 1}]:
        add(f"env {str(env)[:30]!r}", RECORD, with_config("env", value=env))
    fields = ["env", "preset", "config", "engine", "machine", "format"]
    for field in fields:
        for value in (..., None, 3.5, "x" if field not in ("env", "preset") else [1]):
            if not (field in ("engine", "machine") and value is None):
                add(f"config.json: {field} is {value!r}", ("evaluate",), with_config(field, value=value))
    for option in ("steps", "seed", "n_envs", "eval_episodes", "threads", "buffer_size", "td3", "device", "fresh_envs"):
        for value in (None, [], {}, -1, 10**400, "1; import os"):
            add(f"{option} is {str(value)[:20]}", ("evaluate",), with_config("config", option, value=value))
    for option in ("hidden", "lr", "gamma", "layer_norm"):
        for value in (None, {}, -1, 10**400, "x", [[3]], [3.5], [2**40], [1] * 65):
            add(f"{option} is {str(value)[:20]}", ("evaluate",), with_config("config", "td3", option, value=value))
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
        for field in ("number", "progress", "metrics", "replay", "trainer", "state", "run"):
            add(f"manifest: {field} is {value!r}", RESUME, with_manifest(field, value=value))
        for field in ("envs", "written", "streams", "updates"):
            add(f"manifest: trainer's {field} is {value!r}", RESUME, with_manifest("trainer", field, value=value))
    names = ["../../../victim", "/etc/hostname", "../metrics.jsonl", ".", "", "00000000.rows/../../victim"]
    for name in names:
        add(f"segment named {name!r}", RESUME, segment(name=name))
        add(f"segment named {name!r}, not needed", RESUME, segment(name=name, ends=[0, 0], bytes=0))
        # Before the true one: all it takes to be believed, if names are, is that it is not needed any more.
        extra = {"name": name, "bytes": 5, "sha256": "0" * 64, "ends": [0, 0]}
        before = with_manifests(lambda manifest, extra=extra: manifest["replay"]["segments"].insert(0, extra))
        add(f"segment named {name!r}, beside the true one", RESUME, before)
    add("segment of a terabyte", RESUME, both(grow("*.rows"), segment(bytes=2**40, ends=[2**45, 2**45])))
    add("block of a terabyte", (), with_segment(claimed))
    far = [2**50, 2**50]
    add("written is a lot", RESUME, with_manifest("trainer", "written", value=[n + 1 for n in far]))
    written = with_manifest("trainer", "written", value=[n + 1 for n in far])
    add("written is a lot, and on disk", RESUME, both(written, segment(ends=far)))
    long = with_manifest("trainer", "envs", "length", value=far)
    add("an episode of all that was ever written", RESUME, both(written, segment(ends=far), long))
    add("streams of another number", RESUME, segment(ends=[3]))
    add("updates are none", RESUME, with_manifest("trainer", "updates", value=0))
    state = {"state": 2**200, "inc": 1}
    add("a stream beyond its bits", RESUME, with_manifest("trainer", "streams", "index", "state", value=state))
    add("streams are missing", RESUME, with_manifest("trainer", "streams", value={}))
    add("state of a terabyte", RESUME, both(grow("state.safetensors"), with_manifest("state", "bytes", value=2**40)))
    for value in (1e999, -1e999):
        add(f"wall_s is {value}", RESUME, with_manifest("metrics", "wall_s", value=value))
        returns = [value, 0.0]
        add(f"return is {value}", RESUME, with_manifest("trainer", "envs", "episode_return", value=returns))
    changes = {
        "NaN weights": lambda t: t["actor.body.0.weight"].fill_(float("nan")),
        "infinite moments": lambda t: t["critic_adam.critic.q1_body.0.weight.exp_avg_sq"].fill_(float("inf")),
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


def _add_rows(add):
    """Rows with a true checksum that no run writes: read to there, and no further."""
    for number in (1e999, math.nan, 10**400, True, [[1]], {"a": 1}):
        add(f"row with a number that is {str(number)[:20]}", (), with_row(q1=number))
    for kind in (..., None, 3, "../..", "run"):
        add(f"row of kind {kind}", (), with_row(kind=kind))
    for env_steps in (..., -1, 1.5, 2**60, "x"):
        add(f"row at env step {env_steps}", (), with_row(env_steps=env_steps))
    add("row without a time", (), with_row(wall_s=...))
    add("row with a name of no characters", (), with_row(**{"\ud800": 1.0}))
    add("row that is no JSON", (), with_rows(lambda rows: rows.insert(1, b"\xff\xfe" * 50_000)))
    add("rows of a terabyte", (), both(grow("metrics.jsonl"), with_manifest("metrics", "bytes", value=2**40)))
    pipe = both(pipe_at("metrics.jsonl"), with_manifest("metrics", "bytes", value=0))
    add("rows of a pipe", RESUME, pipe)
    add("lost rows without an end", (), with_row(lost=[3]))
    add("a text that a terminal would obey", (), with_row(what="\x1b[2J\x1b]0;title\x07"))


def _add_policies(add):
    for field, values in {
        "hidden": [[2**20, 2**20], [2**20] * 50, [-1], "x", None, [2.5]],
        "obs": [[], [{"name": "obs", "shape": [2**20] * 4, "dtype": "float32"}], 3, [{"shape": [3]}]],
        "action_low": [[None], ["x"], [1e999], [2.0, 2.0]],
        "format": [2, None],
        "env_steps": ["x", None, 1e999],
        "run": ["x", None, 3],
        "algorithm": ["os; rm", None],
        "architecture": ["<own>.Actor", "os.system", "os; rm", None],
        "more": [1],
    }.items():
        for value in values:
            add(f"policy: {field} is {str(value)[:40]}", POLICY, policy_info(**{field: value}))
    add("policy of a gigabyte", POLICY, both(policy_info(hidden=[16_000, 16_000]), grow("*st.safetensors", 4 << 28)))
    add("policy of a terabyte", POLICY, both(policy_info(hidden=[2**19, 2**19]), grow("*st.safetensors")))
    bare = with_policy(lambda content: safetensors.torch.save(safetensors.torch.load(content)))
    add("policy that says nothing of itself", POLICY, bare)
    for name, change in {
        "NaN": lambda t: t["body.0.weight"].fill_(float("nan")),
        "whole numbers": lambda t: t.update({"body.0.bias": torch.zeros(len(t["body.0.bias"]), dtype=torch.int32)}),
        "other sizes": lambda t: t.update({"body.0.weight": t["body.0.weight"][:, :-1].contiguous()}),
        "fewer": lambda t: t.pop("body.0.weight"),
    }.items():
        add(f"policy weights: {name}", POLICY, with_policy_tensors(change))


def _add_files(add):
    names = ["config.json", "policy", "checkpoints", "replay", "metrics.jsonl", "manifest.json", "state.safetensors"]
    names += ["*.rows", "best.safetensors"]
    policies = ("policy", "best.safetensors")
    reported = ("config.json", "metrics.jsonl", "checkpoints", *policies)
    for name in names:
        for kind in ("link", "link to a device", "pipe", "socket"):
            linked = REPORT if name in reported and kind.startswith("link") else ()
            odd = REPORT if name == "config.json" and not linked else ()
            add(f"{name} is a {kind}", (ALL if name in policies else RECORD) + linked + odd, instead(name, kind))
    for name in ("config.json", "best.safetensors"):
        add(f"{name} is a folder", POLICY if "best" in name else RECORD, instead(name, "folder"))
    for name in ("manifest.json", "state.safetensors", "*.rows"):
        add(f"{name} is a folder", RESUME, instead(name, "folder"))
    add("lock is a pipe", RECORD, pipe_at("lock"))
    add("lock is a folder", RESUME, lambda run: [(run / "lock").unlink(), (run / "lock").mkdir()])
    add("lock is a link", RECORD, lambda run: [(run / "lock").unlink(), (run / "lock").symlink_to("../victim")])
    add("video is a link", RECORD + REPORT, lambda run: (run / "video").symlink_to("../elsewhere"))
    add("a film is a link", RECORD + REPORT, film_is_a_link)
    add("a picture is a link", RECORD + REPORT, picture_is_a_link)
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
            flags["report"], flags["explain"] = ["--json"], ["--video-frames", "1"]
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
