"""Runs so small that every byte of them can be damaged, and what they come to when they are opened."""

import hashlib
import json
from pathlib import Path

import msgspec
import probes

from t3d.config import Config
from t3d.env_spec import EnvSpec
from t3d.presets import Choice
from t3d.runs.progress import RunProgress
from t3d.runs.session import Session
from t3d.runs.store import Store
from t3d.training.trainer import Trainer

PROBE = f"{Path(probes.__file__).resolve()}:Counting"
# Episodes of three steps, and a ring of twelve slots a stream: it goes round several times.
OPTIONS = {
    "steps": 58,
    "hidden": (3,),
    "n_envs": 2,
    "random_steps": 10,
    "batch_size": 4,
    "buffer_size": 24,
    "eval_every": 20,
    "eval_episodes": 1,
    "log_every": 10,
    "checkpoint_every": 24,
    "checkpoint_seconds": 1e9,
    "threads": 1,
    "engine": "eager",
}


def choice(**options):
    return Choice("td3", Config().with_values({**OPTIONS, **options}), "as asked")


def train(folder, env=PROBE, until=None, resume=False, **options):
    """Train in a folder to the end, or stop saved once so many env steps are done. Return the session."""
    session = Session(EnvSpec(env), choice(**options), folder, resume=resume)
    rows = session.run()
    for row in rows:
        if until is not None and row["env_steps"] >= until:
            rows.close()
            break
    return session


def digest(trainer, progress):
    """Return the SHA-256 of everything that decides how a run goes on, and of what it has seen."""
    tensors, rest = trainer.state()
    seen = hashlib.sha256(msgspec.json.encode([msgspec.to_builtins(rest), progress.state]))
    for name in sorted(tensors):
        seen.update(name.encode() + tensors[name].numpy().tobytes())
    for env, written in enumerate(trainer.replay.written):
        seen.update(trainer.replay.rows(env, trainer.replay.oldest(env), written - 1).tobytes())
    seen.update(json.dumps([len(trainer.replay), trainer.replay._filled]).encode())
    return seen.hexdigest()


class Opener:
    """Restore a run again and again without touching its files: reading is what is tried here.

    Its config.json is read once, here: restoring reads all the other files, each time.
    """

    def __init__(self, folder, env=PROBE, **options):
        self.trainer = Trainer(EnvSpec(env), choice(**options).config)
        tensors = self.trainer.agent.tensors()  # the agent's own: restoring writes into them
        self.trainer.agent.tensors = lambda: tensors
        self.store = Store.find(EnvSpec(env), choice(**options), folder)
        self.store.close()
        self.store._tidy = lambda path, trainer, progress: None
        self.lost = None  # rows of metrics.jsonl, by env steps, in the folder that was opened last
        self.lost_slots = ""  # of the replay memory, in words

    def open(self):
        """Return the digest of what the run is brought back as, and what was said of checkpoints that were not used."""
        progress = RunProgress()
        self.store._find_checkpoints()
        self.store.restore(self.trainer, progress)
        self.lost, self.lost_slots = self.store.metrics.lost, self.store._log_of(self.trainer).lost
        return digest(self.trainer, progress), list(self.store._checkpoints.problems.values())
