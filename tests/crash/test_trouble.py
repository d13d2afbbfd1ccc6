"""A disk that is full, and numbers that are not finite: what the user sees, and what is left."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from crash_lives import flags
from crash_runs import TINY, Disk, ends_with, live, newest

from t3d.environments.envs import Envs
from t3d.errors import Diverged, EnvFailed
from t3d.runs import checkpoints, session
from t3d.training.collector import Collector
from t3d.training.trainer import Trainer

ENVS = str(Path(__file__).with_name("crash_envs.py"))
OPTIONS = {**TINY, "steps": 1_150, "random_steps": 100, "buffer_size": 400, "checkpoint_every": 100, "eval_every": 600}
COMMAND = [f"{ENVS}:Slow", *flags(OPTIONS), "--out"]
FILLS = 600_000  # bytes of a disk that leave less than a run wants to see free


@pytest.fixture(scope="module")
def expected(server, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    life = server.start("train", *COMMAND, run)
    assert life.wait() == 0, life.said
    return ends_with(run)


def check_what_was_reported(warnings, error, run, problem):
    tried = [line for line in warnings if line.startswith("env step ")]
    assert len(tried) >= 3, warnings
    assert all("no checkpoint: " in line and problem in line for line in tried), warnings
    assert len(set(tried)) == len(tried), "at each attempt, once"
    assert "the run has ended, but its final state could not be saved" in error
    assert f"make room, then t3d resume {run}" in error


def test_space_is_looked_at_before_anything_is_written(folder, monkeypatch, caplog):
    """Anywhere, where no small disk may be mounted: nothing of a checkpoint is begun, and the run goes on."""
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
        ended = live(monkeypatch, folder / "run", Disk())
    assert ended.code == 1
    assert "the run has ended, but its final state could not be saved" in str(ended.error)
    assert len([said for said in caplog.messages if "1.0 MB are free on the disk" in said]) >= 3
    assert not (folder / "run" / "checkpoints").exists()
    assert not (folder / "run" / "replay").exists()


def check_resumed(server, run, expected):
    life = server.start("resume", run, "--env", COMMAND[0], "--no-video")
    assert life.wait() == 0, life.said
    assert "resumed at env step" in life.said
    assert ends_with(run) == expected


def checkpointed(run, env_steps):
    return (run / "checkpoints" / str(env_steps)).is_dir()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk(monkeypatch, folder, tmp_path, caplog):
    disk, brief = tmp_path / "disk", {"checkpoint_every": 6, "buffer_size": 50}
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")

    def fill(env_steps):
        if env_steps == 18:
            (disk / "filler").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - FILLS))

    try:
        run, filled = disk / "run", Disk()
        filled.committed = fill
        assert live(monkeypatch, folder / "undisturbed", Disk(), **brief).code == 0
        ended = live(monkeypatch, run, filled, **brief)
        assert (ended.code, ended.committed) == (1, 18)
        check_what_was_reported(caplog.messages, str(ended.error), run, "MB are needed")
        # Full to the last byte: nothing at all can be written, and the run is still as good as it was.
        with (disk / "more").open("wb") as file, pytest.raises(OSError, match="No space"):
            file.write(bytes(2 * FILLS))
        caplog.clear()
        ended = live(monkeypatch, run, Disk(), **brief)
        assert (ended.code, ended.resumed_at) == (1, 18)
        check_what_was_reported(caplog.messages, str(ended.error), run, "")
        for name in ("filler", "more"):
            (disk / name).unlink()
        assert live(monkeypatch, run, Disk(), **brief).resumed_at == 18
        assert ends_with(run) == ends_with(folder / "undisturbed")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux lets one process limit another")
def test_files_that_may_not_grow(server, tmp_path, expected):
    run = tmp_path / "run"
    code = "from t3d.cli.main import main; main()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, "train", *COMMAND, str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while child.poll() is None and not checkpointed(run, 300):
        time.sleep(0.001)
    # Python ignores SIGXFSZ, so that a write fails with EFBIG.
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (10, 10))
    said = child.communicate()[1]
    assert child.returncode == 1, said
    assert "Traceback" not in said, said
    check_what_was_reported(said.splitlines(), said, run, "File too large")
    check_resumed(server, run, expected)


# --- numbers ---------------------------------------------------------------------------------------------------


def poison_weight(trainer):
    with torch.no_grad():
        trainer.agent.critic.q2_body[0].weight[0, 0] = float("nan")


def poison_actor(trainer):
    with torch.no_grad():
        trainer.agent.actor.body[0].weight[0, 0] = float("inf")


def poison_moment(trainer):
    name = next(name for name in trainer.agent.tensors() if name.endswith("exp_avg_sq"))
    trainer.agent.tensors()[name].view(-1)[0] = float("nan")


def poison_loss(trainer):
    trainer.learner._seen[-1] = trainer.learner._seen[-1]._replace(critic_loss=float("inf"))


POISONS = {
    "weight": (poison_weight, "critic_loss, q2"),
    "actor": (poison_actor, ": actor.body.0.weight"),
    "moment": (poison_moment, "_adam."),
    "loss": (poison_loss, "its critic_loss"),
}
POISONED_AT = 33


@contextmanager
def poisoned(poison, meanwhile=lambda: None):
    step = Trainer.step

    def poisoned_step(trainer):
        episodes = step(trainer)
        if trainer.env_steps == POISONED_AT:
            poison(trainer)
            meanwhile()
        return episodes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", poisoned_step)
        yield


def all_finite(run):
    files = [*run.rglob("*.safetensors")]
    assert files
    return all(t.isfinite().all() for f in files for n, t in safetensors.torch.load_file(f).items() if n != "seen")


@pytest.mark.parametrize("engine", ["eager", "fused"])
@pytest.mark.parametrize("name", POISONS)
def test_numbers_that_are_not_finite_stop_the_run_and_are_never_saved(monkeypatch, folder, name, engine):
    poison, names = POISONS[name]
    assert live(monkeypatch, folder / "undisturbed", Disk(), engine=engine).code == 0
    run = folder / "run"
    with poisoned(poison):
        ended = live(monkeypatch, run, Disk(), engine=engine)
    assert ended.code == 1
    assert isinstance(ended.error, Diverged)
    first = (POISONED_AT - TINY["random_steps"]) // 2
    assert int(re.search(r"update (\d+)", str(ended.error))[1]) in range(first, first + 3)
    assert names in str(ended.error)
    assert int(newest(run).name) < POISONED_AT
    assert all_finite(run)
    assert live(monkeypatch, run, Disk(), engine=engine).resumed_at == ended.committed == 30
    assert ends_with(run) == ends_with(folder / "undisturbed")


def test_a_signal_does_not_save_them_either(monkeypatch, folder):
    run = folder / "run"
    stops = []
    with pytest.MonkeyPatch.context() as patch:
        enter = session.Signals.__enter__
        patch.setattr(session.Signals, "__enter__", lambda signals: (stops.append(signals), enter(signals))[1])
        with poisoned(poison_actor, lambda: stops[-1].ask_to_stop(15)):
            ended = live(monkeypatch, run, Disk())
    assert isinstance(ended.error, Diverged)
    assert all_finite(run)
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if '"event"' in line]
    assert [event["what"][:21] for event in events] == ["training has diverged"]


def test_an_environment_that_failed_once_plays_the_same_action_again(monkeypatch, folder):
    """Its exploration noise has been drawn: to draw again would be another run."""
    assert live(monkeypatch, folder / "undisturbed", Disk()).code == 0
    step = Envs.step

    def failing_step(envs, action, meanwhile):
        taken = step(envs, action, meanwhile)
        if taken.episodes or envs.env_steps != 33:
            return taken
        envs.env_steps -= 1
        envs._length -= 1
        envs._return -= taken.reward
        envs.obs = trainer_obs[0]
        raise EnvFailed("the cable came loose")

    trainer_obs = []
    act = Collector._draw_action

    def noting_action(collector, play):
        trainer_obs[:] = [collector.envs.obs.copy()]
        return act(collector, play)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Envs, "step", failing_step)
        patch.setattr(Collector, "_draw_action", noting_action)
        ended = live(monkeypatch, folder / "run", Disk())
    assert (ended.code, ended.committed) == (1, 32)
    assert live(monkeypatch, folder / "run", Disk()).resumed_at == 32
    assert ends_with(folder / "run") == ends_with(folder / "undisturbed")
