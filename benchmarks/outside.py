"""Does t3d train in environments that nobody here wrote? benchmarks/results/outside.json has a row for each.

    python benchmarks/outside.py                        all, one after another
    python benchmarks/outside.py --only panda-gym       those whose name or package has this in it
    python benchmarks/outside.py --table                what is known, as a Markdown table

Each package gets a Python environment of its own. In each of its environments t3d trains 1,200 steps, is killed with
SIGKILL once a checkpoint holds something learned, resumes, and the policy plays one step. Run it again to go on where
it was interrupted; rows that are there stay, unless --again is given.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from t3d.machine import describe

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "outside.json"
RANDOM_STEPS = 300
# Many episodes last for 50 steps: 380, where it is killed, is in the midst of one.
FLAGS = {"steps": 1200, "random-steps": RANDOM_STEPS, "eval-every": 600, "eval-episodes": 1, "checkpoint-every": 190}
LONGEST_S, POLL_S = 3600.0, 0.02


@dataclass(frozen=True)
class Package:
    """What its Python environment is made of, beside t3d."""

    install: tuple[str, ...]
    without: tuple[str, ...] = ()  # lines of constraints.txt, by their beginnings, that it cannot live with
    alone: tuple[str, ...] = ()  # installed last, and nothing of what they say they need
    versions: tuple[str, ...] = ()  # of what else its row tells


@dataclass(frozen=True)
class Environment:
    """One environment, and what `t3d train` must be told of it."""

    package: str
    env: str
    args: dict[str, Any] = field(default_factory=dict)  # of its constructor
    wrapper: str | None = None
    flags: tuple[str, ...] = ()
    by_hand: bool = False  # not of the eleven: tried for its spaces

    @property
    def name(self) -> str:
        """Its row's: the environment, and in short what else is typed."""
        inside = [f"{key}={value}" for key, value in self.args.items()]
        return " ".join((self.env, *inside, *(self.wrapper or "").split(":")[1:]))


PACKAGES = {
    "highway-env": Package(("highway-env",), versions=("pygame-ce",)),
    # It asks for numpy < 2, which t3d does not run with; it does run with numpy 2.
    "PyFlyt": Package(("pettingzoo", "pybullet", "pyyaml"), alone=("PyFlyt",), versions=("pybullet",)),
    "panda-gym": Package(("panda-gym",), versions=("pybullet",)),
    "gym-electric-motor": Package(("gym-electric-motor",)),
    # It asks for exactly mujoco 3.3.0, and does not ask for packaging, which Gymnasium's MuJoCo part imports.
    "metaworld": Package(("metaworld", "packaging"), without=("mujoco",), versions=("mujoco",)),
    "gym-anm": Package(("gym-anm",), versions=("cvxpy",)),
    # It draws with pygame, which has the same files as pygame-ce; it puts arrays of one number in the place of a
    # number, which NumPy 2.4 refuses.
    "bluesky-gym": Package(("bluesky-gym", "numpy<2.4"), without=("pygame", "numpy"), versions=("bluesky-simulator",)),
    # With MuJoCo 3.17 its Fetch stops at an assertion about the type of a joint.
    "gymnasium-robotics": Package(("gymnasium-robotics", "mujoco<3.4"), without=("mujoco",), versions=("mujoco",)),
    # Each of its releases asks for a release of MuJoCo; packaging is as for metaworld.
    "dm-control": Package(
        ("shimmy[dm-control]", "mujoco<4", "packaging"), without=("mujoco",), versions=("shimmy", "mujoco")
    ),
}
# Its ids are registered by a call, not by the import: the file that a user would write.
BLUESKY = """import bluesky_gym
import gymnasium


def make(env_id, **options):
    bluesky_gym.register_envs()
    return gymnasium.make(env_id, **options)
"""
ENVIRONMENTS = (
    # An episode of it lasts for 1,500 steps of a tenth of a second.
    Environment("highway-env", "highway_env:racetrack-v0", flags=("--max-episode-steps", "200")),
    Environment("highway-env", "highway_env:parking-v0"),
    Environment("PyFlyt", "PyFlyt.gym_envs:PyFlyt/QuadX-Hover-v4"),
    Environment(
        "PyFlyt", "PyFlyt.gym_envs:PyFlyt/Fixedwing-Waypoints-v3", wrapper="PyFlyt.gym_envs:FlattenWaypointEnv"
    ),
    Environment("panda-gym", "panda_gym:PandaReachDense-v3"),
    Environment("panda-gym", "panda_gym:PandaSlideDense-v3"),
    Environment("gym-electric-motor", "gym_electric_motor:Cont-CC-PMSM-v0"),
    Environment("metaworld", "metaworld:Meta-World/MT1", args={"env_name": "reach-v3"}),
    Environment("gym-anm", "gym_anm:ANM6Easy-v0", flags=("--max-episode-steps", "200")),
    # All of its environments in a process share one simulator: an evaluation would end the episode that is trained in.
    Environment("bluesky-gym", "bluesky_envs.py:make", {"env_id": "DescentEnv-v0"}, flags=("--env-workers", "1")),
    Environment("bluesky-gym", "bluesky_envs.py:make", {"env_id": "MergeEnv-v0"}, flags=("--env-workers", "1")),
    # A part of its observations has no fixed length: to be refused.
    Environment("PyFlyt", "PyFlyt.gym_envs:PyFlyt/Fixedwing-Waypoints-v3", by_hand=True),
    Environment("gymnasium-robotics", "gymnasium_robotics:FetchReachDense-v4", by_hand=True),
    Environment("gymnasium-robotics", "gymnasium_robotics:PointMaze_UMazeDense-v3", by_hand=True),
    Environment("gymnasium-robotics", "gymnasium_robotics:AdroitHandDoor-v1", by_hand=True),
    Environment("gymnasium-robotics", "gymnasium_robotics:FrankaKitchen-v1", by_hand=True),
    Environment("dm-control", "shimmy:dm_control/cartpole-swingup-v0", by_hand=True),
    Environment("dm-control", "shimmy:dm_control/humanoid-walk-v0", by_hand=True),
)
# Run in a package's Python environment, without t3d's own ways of making an environment.
LOOK = """import importlib.metadata, json, pydoc, runpy, sys
import gymnasium
name, args, wrapper, packages, policy, out = json.loads(sys.argv[1])
file, _, attribute = name.rpartition(":")
env = runpy.run_path(file)[attribute](**args) if file.endswith(".py") else gymnasium.make(name, **args)
if wrapper:
    env = pydoc.locate(wrapper.replace(":", "."))(env)
found = {"observation": str(env.observation_space), "action": str(env.action_space)}
found["versions"] = {package: importlib.metadata.version(package) for package in packages}
obs, _ = env.reset(seed=0)
if policy:
    import t3d
    action = t3d.load(policy)(obs)
    env.step(action)
    found = {"played": action.tolist()}
open(out, "w").write(json.dumps(found))
"""


class NotWorked(Exception):
    """Carry how a row ended, refused or failed, and the words."""

    def __init__(self, outcome: str, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


def install(package: str, work: Path) -> Path:
    """Make a package's Python environment unless it is there, and return its folder of commands."""
    folder, wants = work / package, PACKAGES[package]
    bin_folder, done = folder / "bin", folder / "done"
    if done.exists():
        return bin_folder
    print(f"{package}: installing", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(wants.without)] if wants.without else lines
    (folder / "constraints.txt").write_text("\n".join(kept) + "\n")
    pip = [str(bin_folder / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", str(folder / "constraints.txt"), "-e", str(ROOT), *wants.install], check=True)
    if wants.alone:
        subprocess.run([*pip, "--no-deps", *wants.alone], check=True)
    done.touch()
    return bin_folder


def look(job: Environment, bin_folder: Path, work: Path, policy: Path | None) -> dict[str, Any]:
    """Return what the environment is, or with a policy what that played in it."""
    out = work / "look.json"
    versions = ("t3d", "torch", "numpy", "gymnasium", job.package, *PACKAGES[job.package].versions)
    question = json.dumps([job.env, job.args, job.wrapper, versions, policy and str(policy), str(out)])
    done = run([str(bin_folder / "python"), "-c", LOOK, question], work)
    if done.returncode:
        raise NotWorked(
            "failed", f"{'playing' if policy else 'made without t3d'}: {done.stderr.strip().splitlines()[-1]}"
        )
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def run(command: list[str], work: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return it, with what it said."""
    return subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=LONGEST_S, check=False)


def train_command(job: Environment, bin_folder: Path, out: Path) -> list[str]:
    """Return the command that begins the run."""
    flags = [part for flag, value in FLAGS.items() for part in (f"--{flag}", str(value))]
    return [str(bin_folder / "t3d"), "train", job.env, *made(job), *flags, *job.flags, "--no-video", "--out", str(out)]


def made(job: Environment) -> list[str]:
    """Return the flags that say how it is made, which every command must be told."""
    flags = [part for key, value in job.args.items() for part in ("--env-arg", f"{key}={json.dumps(value)}")]
    return flags + (["--wrapper", job.wrapper] if job.wrapper else [])


def checkpoint(out: Path) -> int:
    """Return the env steps of the newest whole checkpoint, 0 if there is none."""
    whole = [path.parent.name for path in out.glob("checkpoints/*/manifest.json")]
    return max((int(name) for name in whole if name.isdigit()), default=0)


def train_and_kill(command: list[str], out: Path, work: Path) -> int:
    """Train until a checkpoint holds something learned, kill, and return the env steps of the newest checkpoint."""
    log = work / "train.log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=work, stdout=stream, stderr=stream, text=True)
        until = time.monotonic() + LONGEST_S
        while process.poll() is None and checkpoint(out) <= RANDOM_STEPS and time.monotonic() < until:
            time.sleep(POLL_S)
        process.kill()
        process.wait()
    if process.returncode != -signal.SIGKILL or not checkpoint(out):
        raise ended_early(process.returncode, log.read_text())
    return checkpoint(out)


def ended_early(code: int, said: str) -> NotWorked:
    """Return what t3d said at its end; refused only where it says what to do."""
    message = said[said.rfind("t3d: ") :] if "t3d: " in said else "\n".join(said.splitlines()[-5:])
    one_line = " | ".join(" ".join(line.split()) for line in message.splitlines())
    return NotWorked("refused" if code == 2 and "do:" in one_line else "failed", f"exit code {code}: {one_line}")


def inexact(out: Path) -> list[str]:
    """Return what the run's metrics say was not bit-exact."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    events = [str(row["what"]) for row in rows if row["kind"] == "event"]
    return [what for what in events if what.startswith("not bit-exact")]


def row_of(job: Environment, work: Path) -> dict[str, Any]:
    """Try one environment and return its row."""
    row: dict[str, Any] = {"name": job.name, "package": job.package, "by_hand": job.by_hand, "flags": job.flags}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=work) as folder:
        out = Path(folder) / "run"
        try:
            bin_folder = install(job.package, work)
            began = time.perf_counter()
            row |= look(job, bin_folder, work, None)
            row["killed_after"] = train_and_kill(train_command(job, bin_folder, out), out, work)
            resume = [str(bin_folder / "t3d"), "resume", str(out), "--env", job.env, *made(job), "--no-video"]
            if (resumed := run(resume, work)).returncode:
                raise ended_early(resumed.returncode, resumed.stderr)
            row["not_exact"] = inexact(out)
            row |= look(job, bin_folder, work, out) | {"outcome": "worked"}
        except NotWorked as error:
            row |= {"outcome": error.outcome, "message": str(error)}
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            row |= {"outcome": "failed", "message": f"{type(error).__name__}: {error}"}
    return row | {"seconds": round(time.perf_counter() - began, 1)}


def in_short(space: str) -> str:
    """Return what kind of space this is, and how large."""
    kind = space.partition("(")[0]
    return (
        f"{kind} {re.findall(r'[(][0-9, ]*[)]', space)[-1]}"
        if kind == "Box"
        else f"{kind}, {space.count('Box(')} parts"
    )


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| package | environment | observation | t3d | resumed |", "|---|---|---|---|---|"]
    for row in rows:
        package = f"{row['package']} {row.get('versions', {}).get(row['package'], '')}".strip()
        same = "" if "not_exact" not in row else "; ".join(row["not_exact"]) or "bit for bit"
        told = row["outcome"] if row["outcome"] == "worked" else f"{row['outcome']}: {row['message'].split(' | ')[-1]}"
        cells = package, f"`{row['name']}`", in_short(row.get("observation", "")), told, same or "-"
        lines.append("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |")
    return "\n".join(lines)


def try_all(chosen: list[Environment], known: dict[str, dict[str, Any]], work: Path) -> None:
    """Try one after another, and write what is known after each."""
    (work / "bluesky_envs.py").write_text(BLUESKY)
    os.environ["HOME"] = str(work)  # where BlueSky makes folders
    machine = {key: value for key, value in describe().items() if key != "versions"}  # each row has its own
    for job in chosen:
        print(f"{job.name} ...", flush=True)
        row = known[job.name] = row_of(job, work)
        if "message" in row:
            row["message"] = row["message"].replace(str(work), "WORK").replace(str(ROOT), "T3D")
        print(f"  {row['outcome']}, {row['seconds']} s  {row.get('message', '')}", flush=True)
        rows = [known[job.name] for job in ENVIRONMENTS if job.name in known]
        RESULTS.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


def main(work: Path | None = None, only: str = "", again: bool = False, table: bool = False) -> None:
    """Try the environments that have no row yet.

    Args:
        work: the folder for the packages' Python environments, kept; a temporary one if left out.
        only: those alone whose name or package has this in it.
        again: those too that have a row.
        table: print the rows instead, as a Markdown table.
    """
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    if table:
        print(as_table(rows))
        return
    known = {row["name"]: row for row in rows}
    chosen = [job for job in ENVIRONMENTS if only in f"{job.package} {job.name}"]
    chosen = [job for job in chosen if again or job.name not in known]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (work or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        try_all(chosen, known, folder)


if __name__ == "__main__":
    tyro.cli(main)
