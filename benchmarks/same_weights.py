"""Does a redesign still compute the same numbers? The same small trainings by several checkouts, compared bit by bit.

    git worktree add /tmp/before HEAD~10
    python benchmarks/same_weights.py /tmp/before .          some minutes; with one tree it prints that one's hashes

Each tree trains with its own code, through `t3d.train` and the command line alone, so that old and new layouts can be
compared. Of every run four parts are hashed:

    tensors       of the last checkpoint, the best policy's copy left out: sorted by their bytes, whatever their names
    replay        the slots on disk of each env stream, in their order; as many of the newest as the memory holds
    streams       where every random stream stands
    evaluations   env steps, returns and lengths

The exit code is 1 if a part of a case differs between two trees, or a run that was killed and resumed from its
undisturbed twin. No hash is kept: another machine, or another PyTorch, computes other bits.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import itertools
import json
import os
import platform
import signal
import struct
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

PACKAGES = ("torch", "numpy", "numba", "gymnasium", "mujoco")


class Found(NamedTuple):
    """What a run folder holds, out of its format."""

    tensors: list[bytes]  # each with its dtype and shape
    replay: list[NDArray[np.void]]  # of each env stream the slots on disk, (slots,)
    streams: dict[str, Any]
    evaluations: list[list[Any]]  # env steps, returns, lengths


class Case(NamedTuple):
    """One small training."""

    env: str
    options: dict[str, Any]
    example: str = ""  # module:Class of the tree's examples that is the algorithm; TD3 itself if empty


class Worn(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A hopper that is paid less after each episode it has seen: --fresh-envs is for such."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(gymnasium.make("Hopper-v5", render_mode=render_mode))
        self._episodes = 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._episodes += 1
        return super().reset(**options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Make a step, for the reward divided by the number of episodes."""
        obs, reward, *rest = super().step(action)
        return obs, float(reward) / self._episodes, *rest


# Episodes end by truncation in Pendulum and HalfCheetah, by termination in Hopper.
PENDULUM, CHEETAH, HOPPER = "Pendulum-v1", "HalfCheetah-v5", "Hopper-v5"
SMALL: dict[str, Any] = {
    "steps": 400,
    "seed": 3,
    "random_steps": 50,
    "hidden": [16, 16],
    "batch_size": 32,
    "buffer_size": 6_000,
    "eval_every": 150,
    "eval_episodes": 2,
    "log_every": 70,
    "checkpoint_every": 130,
    "engine": "eager",
    "threads": 1,
}
# Large enough that the number of threads shows in the bits.
WIDE = SMALL | {"steps": 300, "hidden": [256, 256], "batch_size": 256}
FUSED = WIDE | {"engine": "fused"}
FALLING = {"exploration_noise": 0.3, "exploration_noise_final": 0.05, "exploration_noise_steps": 200}
# Slow enough to be killed in the middle.
LONG = SMALL | FALLING | {"steps": 1_500, "n_envs": 2, "normalize_obs": True, "checkpoint_every": 100}

CASES = {
    "eager, 1 thread": Case(CHEETAH, WIDE),
    "eager, 2 threads": Case(CHEETAH, WIDE | {"threads": 2}),
    "fused, 1 thread": Case(CHEETAH, FUSED),
    "fused, 2 threads": Case(CHEETAH, FUSED | {"threads": 2}),
    "3 environments": Case(HOPPER, SMALL | {"n_envs": 3}),
    "2 workers": Case(HOPPER, SMALL | {"n_envs": 2, "env_workers": 2}),
    "normalize_obs": Case(CHEETAH, SMALL | {"normalize_obs": True}),
    "layer_norm both": Case(PENDULUM, SMALL | {"layer_norm": "both"}),
    "noise schedule": Case(PENDULUM, SMALL | FALLING),
    "fresh_envs": Case(f"{Path(__file__).resolve()}:Worn", SMALL | {"fresh_envs": True}),
    "half an update a step": Case(HOPPER, SMALL | {"updates_per_step": 0.5}),
    "small replay": Case(PENDULUM, SMALL | {"buffer_size": 100}),
    "one critic": Case(PENDULUM, SMALL, "one_critic:OneCritic"),
    "undisturbed": Case(HOPPER, LONG),
}
KILLED, UNDISTURBED = "killed and resumed", "undisturbed"
SEEDS = Case(HOPPER, SMALL)


# --- readers: one for each format of the run folder ---


def read_format_2(run: Path, manifest: dict[str, Any], tensors: bytes) -> Found:
    """Read a run folder of format 2: blocks with parity, a copy of the best policy among the tensors."""
    # That copy is the bytes of a file: its description has the time.
    arrays = {n: array for n, array in safetensors.numpy.load(tensors).items() if not n.startswith("policy/")}
    return _found(run, manifest, arrays, _blocks_2, manifest["streams"])


def read_format_3(run: Path, manifest: dict[str, Any], tensors: bytes) -> Found:
    """Read a run folder of format 3: a head, then blocks, in each segment."""
    return _found(run, manifest, safetensors.numpy.load(tensors), _blocks_3, manifest["trainer"]["streams"])


def _found(
    run: Path, manifest: dict[str, Any], arrays: dict[str, Any], blocks_of: Callable[..., Any], streams: dict[str, Any]
) -> Found:
    blocks: list[list[NDArray[np.void]]] = []
    for segment in manifest["replay"]["segments"]:
        blocks += blocks_of((run / "replay" / segment["name"]).read_bytes()[: segment["bytes"]])
    return Found(
        tensors=[f"{array.dtype} {array.shape} ".encode() + array.tobytes() for array in arrays.values()],
        replay=[np.concatenate(parts) for parts in zip(*blocks, strict=True)],
        streams=streams,
        evaluations=_evaluations(run),
    )


def _blocks_2(segment: bytes) -> Iterator[list[NDArray[np.void]]]:
    """Yield of each block of a segment each stream's slots."""
    at = 0
    while at < len(segment):
        begin = at
        magic, _, streams, slot_bytes = struct.unpack_from("<8sQQQ", segment, at)
        if magic != b"t3d-slot":
            raise SystemExit(f"no block of format 2 at byte {at:,} of a segment: {magic!r}")
        slots, at = _slots(segment, at + 32, streams, slot_bytes)
        at += _parity_bytes_2(at - begin)
        yield slots


def _blocks_3(segment: bytes) -> Iterator[list[NDArray[np.void]]]:
    """Yield of each block of a segment each stream's slots."""
    magic, _, streams, slot_bytes = struct.unpack_from("<8s32sQQ", segment)
    if magic != b"t3d-rows":
        raise SystemExit(f"no segment of format 3: it begins with {magic!r}")
    at = 64
    while at < len(segment):
        slots, at = _slots(segment, at + 24, streams, slot_bytes)
        yield slots


def _slots(segment: bytes, at: int, streams: int, slot_bytes: int) -> tuple[list[NDArray[np.void]], int]:
    """Return each stream's slots behind a block's head, and where its digest ends."""
    spans = struct.unpack_from(f"<{2 * streams}Q", segment, at)
    at += 16 * streams
    slots = []
    for count in spans[1::2]:
        slots.append(np.frombuffer(segment, f"V{slot_bytes}", count, at))
        at += count * slot_bytes
    return slots, at + 32


def _parity_bytes_2(block_bytes: int) -> int:
    """Return what a block's parity takes: head, a checksum a piece, the XOR of its rows of pieces, digest."""
    piece = 4096
    if block_bytes <= piece:
        return 24 + 4 + block_bytes + 32
    columns = max(2, -(-block_bytes // (16 * piece)))
    rows = -(-block_bytes // (columns * piece))
    return 24 + 4 * rows * columns + columns * piece + 32


def _evaluations(run: Path) -> list[list[Any]]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [[row[key] for key in ("env_steps", "returns", "lengths")] for row in rows if row["kind"] == "evaluation"]


# By a run's format: a number in the manifest, from 3 on in config.json alone.
READERS: dict[int, Callable[[Path, dict[str, Any], bytes], Found]] = {2: read_format_2, 3: read_format_3}


def checkpoints(run: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, the newest last."""
    found = [path for path in (run / "checkpoints").glob("*") if path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))


def hashes(run: Path, case: Case) -> dict[str, str]:
    """Return the hash of each part of a finished run."""
    checkpoint = checkpoints(run)[-1]
    if int(checkpoint.name) < case.options["steps"]:
        raise SystemExit(f"{checkpoint} is the newest checkpoint: the run has not ended")
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    number = manifest.get("format") or json.loads((run / "config.json").read_text())["format"]
    if number not in READERS:
        raise SystemExit(f"{checkpoint} is of format {number}: add a reader for it to READERS")
    found = READERS[number](run, manifest, (checkpoint / "state.safetensors").read_bytes())
    # The memory holds so many slots; what is older on disk may be removed at any time. The open slot is a tensor.
    held = case.options["buffer_size"] // case.options.get("n_envs", 1) - 1
    parts: dict[str, list[bytes]] = {
        "tensors": sorted(found.tensors),
        "replay": [slots[-held:].tobytes() for slots in found.replay],
        "streams": [_canonical(state) for _, state in sorted(found.streams.items())],
        "evaluations": [_canonical(row) for row in found.evaluations],
    }
    # What compares nothing finds nothing.
    if not all(parts.values()) or not all(itertools.chain(*parts.values())) or len(found.evaluations) < 2:
        counts = {name: list(map(len, part)) for name, part in parts.items()}
        raise SystemExit(f"{run}: a part is empty, or has one evaluation alone: {counts}")
    return {name: _hash(values) for name, values in parts.items()}


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, allow_nan=False).encode()


def _hash(values: list[bytes]) -> str:
    seen = hashlib.sha256()
    for value in values:
        seen.update(struct.pack("<Q", len(value)) + value)
    return seen.hexdigest()


# --- trainings: in child processes, by a tree's own code ---


def train_here(tree: Path, out: Path) -> None:
    """Train all of CASES in this process, each in a folder of its number. PYTHONPATH has chosen whose t3d this is."""
    import t3d

    if not Path(t3d.__file__).is_relative_to(tree / "src"):
        raise SystemExit(f"this is not the t3d of {tree}: {t3d.__file__}")
    sys.path.append(str(tree / "examples"))
    for number, (title, case) in enumerate(CASES.items()):
        say(f"  {title}")
        options = case.options | {"hidden": tuple(case.options["hidden"])}
        if case.example:
            module, _, name = case.example.partition(":")
            options["algorithm"] = getattr(importlib.import_module(module), name)
        t3d.train(case.env, out=out / str(number), video=False, **options)


class Tree:
    """A checkout, and how its code is run; its runs are written into an empty folder."""

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path, self.scratch = path.resolve(), scratch
        self._said = scratch / "said.txt"  # by the last command
        self._env = os.environ | {"PYTHONPATH": str(self.path / "src")}
        project = tomllib.loads((self.path / "pyproject.toml").read_text())
        module, _, function = project["project"]["scripts"]["t3d"].partition(":")
        self._command = f"from {module} import {function}; {function}()"

    def commit(self) -> str:
        """Return the commit that is checked out, and whether files differ from it; empty outside Git."""
        command = ["git", "-C", str(self.path), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    def cases(self) -> dict[str, dict[str, str]]:
        """Train all cases and return the hashes of each."""
        # -P: the other scripts beside this one have names that a library could ask for.
        own = [sys.executable, "-P", __file__, "--train-here", str(self.scratch), str(self.path)]
        with self._start(own, sys.stderr) as child:
            pass
        if child.returncode:
            raise SystemExit(f"{self.path}: a training ended with exit code {child.returncode}")
        found = {name: hashes(self.scratch / str(number), case) for number, (name, case) in enumerate(CASES.items())}
        say(f"  {KILLED}")
        found[KILLED] = hashes(self.killed_and_resumed(CASES[UNDISTURBED]), CASES[UNDISTURBED])
        say("  two seeds")
        for number, run in enumerate(self.seeds(SEEDS)):
            found[f"two seeds: number {number}"] = hashes(run, SEEDS)
        return found

    def killed_and_resumed(self, case: Case) -> Path:
        """Train by the command line, killed after the second checkpoint and resumed; return the run folder."""
        out = self.scratch / "killed"
        command = self._train(case, out)
        with self._said.open("w") as said, self._start(command, said) as child:
            while child.poll() is None and len(checkpoints(out)) < 2:
                time.sleep(0.002)
            child.kill()
        reached = [int(path.name) for path in checkpoints(out)]
        if child.returncode != -signal.SIGKILL or not 0 < max(reached, default=0) < case.options["steps"]:
            ended = f"exit code {child.returncode}, checkpoints at {reached}"
            raise SystemExit(f"not killed in the middle: {ended}\n{self._said.read_text()[-4000:]}")
        first_row = (out / "metrics.jsonl").read_text().partition("\n")[0]
        self._run([*command, "--resume", "auto"])
        if not (out / "metrics.jsonl").read_text().startswith(first_row):  # which has the time
            raise SystemExit(f"{out}: the run began anew")
        return out

    def seeds(self, case: Case) -> list[Path]:
        """Train two seeds by the command line; return their run folders."""
        out = self.scratch / "seeds"
        self._run([*self._train(case, out), "--seeds", "2", "--jobs", "2"])
        runs = sorted(path.parent for path in out.glob("*/metrics.jsonl"))
        if len(runs) != 2:
            raise SystemExit(f"{out}: {len(runs)} runs of two seeds")
        return runs

    def _train(self, case: Case, out: Path) -> list[str]:
        command = [sys.executable, "-c", self._command, "train", case.env, "--out", str(out), "--no-video"]
        for name, value in case.options.items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                command.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                command += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
        return command

    def _run(self, command: list[str]) -> None:
        with self._said.open("w") as said, self._start(command, said) as child:
            pass
        if child.returncode:
            raise SystemExit(f"exit code {child.returncode}: {command}\n{self._said.read_text()[-4000:]}")

    def _start(self, command: list[str], said: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=self._env, cwd=self.scratch, stdout=said, stderr=said)


# --- the comparison ---


def verdict(of_case: list[dict[str, str]]) -> str:
    """Say in which parts these hashes differ."""
    differ = [part for part in of_case[0] if len({seen[part] for seen in of_case}) > 1]
    return f"DIFFERS in {', '.join(differ)}" if differ else "same"


def report(trees: list[dict[str, Any]]) -> bool:
    """Print the table; return whether everything is the same."""
    parts, width = list(trees[0]["cases"][UNDISTURBED]), max(map(len, trees[0]["cases"]))
    verdicts = []
    print(" " * width, *(f"{part:<12}" for part in parts))
    for name in trees[0]["cases"]:
        of_case = [tree["cases"][name] for tree in trees]
        verdicts.append(verdict(of_case))
        row, *others = [" ".join(f"{seen[part][:12]:<12}" for part in parts) for seen in of_case]
        print(f"{name:<{width}}", row, verdicts[-1] if others else "")
        if verdicts[-1] != "same":
            for tree, other in zip(trees[1:], others, strict=True):
                print(f"{'  ' + Path(tree['tree']).name:<{width}.{width}}", other)
    print()
    for tree in trees:
        verdicts.append(verdict([tree["cases"][UNDISTURBED], tree["cases"][KILLED]]))
        print(f"{tree['tree']} ({tree['commit']}): {KILLED}, against {UNDISTURBED}: {verdicts[-1]}")
    return set(verdicts) == {"same"}


def machine() -> dict[str, Any]:
    """Return what the bits depend on beside the code."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "system": platform.platform(),
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }


def say(what: str) -> None:
    """Show progress."""
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Train with each tree and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", metavar="TREE", nargs="+", type=Path, help="a checkout of this repository")
    parser.add_argument("--json", type=Path, help="write all hashes into this file")
    parser.add_argument("--train-here", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train_here:
        train_here(asked.trees[0], asked.train_here)
        return
    seen: list[dict[str, Any]] = []
    for path in asked.trees:
        with tempfile.TemporaryDirectory(prefix="same-weights-") as scratch:
            tree = Tree(path, Path(scratch))
            say(f"{tree.path} ({tree.commit()})")
            seen.append({"tree": str(tree.path), "commit": tree.commit(), "cases": tree.cases()})
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "trees": seen}, indent=1) + "\n")
    sys.exit(0 if report(seen) else 1)


if __name__ == "__main__":
    main()
