"""Runs on a cluster of Ray: each is a task, which trains it in a child of its own (`node.py`).

Ray is one trust domain: whoever reaches a cluster and has its token may run code on all of it. A cluster that is
started here asks for a token that this process alone knows.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import sys
import tempfile
import time
from contextlib import ExitStack, redirect_stdout, suppress
from pathlib import Path
from typing import Any, Self

from t3d.address import FILE_AND_NAME
from t3d.errors import ConfigRefused, RunRefused, message_of
from t3d.execution import node
from t3d.execution.jobs import Job
from t3d.execution.processes import Child, Standing
from t3d.machine import usable_cores, versions
from t3d.storage import disk
from t3d.storage.lock import Lock

# How often a run is taken up again whose child, worker or node has died.
_RETRIES = 20
_OBJECTS_BYTES = 80_000_000  # Ray's least; results are two short texts


class Cluster:
    """A cluster that jobs can be trained on, while entered.

    Args:
        address: HOST:PORT of one that runs, on one of its own machines; None starts one on this machine.
        parent: the folder of all runs, which every node must see.
        run_bytes: the memory that a run takes.

    Raises:
        ConfigRefused: Ray is not installed; or there is no such cluster, or it refuses the token.
        RunRefused: a node does not see the folder, or has other versions; or another command trains in there.
    """

    def __init__(self, address: str | None, parent: Path, run_bytes: int) -> None:
        self._address, self._parent, self._run_bytes = address, parent.resolve(), run_bytes
        self._mark = secrets.token_hex(8)
        # Before Ray sets its own: runs have the command's.
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self._stops: list[Path] = []  # files by which runs are asked to stop

    def __enter__(self) -> Self:
        with ExitStack() as left:
            # Ray says what it tries again on stdout, where the answer of this program is expected.
            left.enter_context(redirect_stdout(sys.stderr))
            self._ray = self._started(left) if self._address is None else _joined(self._address)
            left.callback(self._ray.shutdown)
            disk.make_folder(self._parent)
            lock, marker = Lock(self._parent), node.marker_in(self._parent)
            left.callback(lock.close)
            left.callback(self._leave_nothing, marker, self._parent / "lock")
            disk.replace(marker, self._mark.encode())
            self._refuse_unlike_nodes()
            self._left = left.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.close()

    def _leave_nothing(self, *files: Path) -> None:
        for file in (*files, *self._stops):
            with suppress(FileNotFoundError):
                disk.remove(file)

    def _started(self, left: ExitStack) -> Any:
        # Ray would keep its own token where others may read it. It reads these when it is imported.
        token = Path(left.enter_context(tempfile.TemporaryDirectory(prefix="t3d-token-"))) / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
        ray = _imported()
        ray.init(
            address="local",
            num_cpus=usable_cores(),
            object_store_memory=_OBJECTS_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
        return ray

    def _refuse_unlike_nodes(self) -> None:
        mine = {**versions(), "python": platform.python_version(), "folder": "it"}
        alive = [one for one in self._ray.nodes() if one["Alive"]]
        look = self._ray.remote(num_cpus=0, max_retries=2)(node.look_around)
        on = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        seen = self._ray.get(
            [
                look.options(scheduling_strategy=on(one["NodeID"], soft=False)).remote(str(self._parent), self._mark)
                for one in alive
            ]
        )
        for one, facts in zip(alive, seen, strict=True):
            if facts == mine:
                continue
            what = {
                name: (facts.get(name), mine.get(name)) for name in facts | mine if facts.get(name) != mine.get(name)
            }
            where = one["NodeManagerAddress"]
            if "folder" in what:
                raise RunRefused(
                    "a node does not see the runs' folder as this machine does: a run could be written twice",
                    got=f"node {where} sees {facts['folder']}",
                    expected=f"{self._parent}, on storage that all nodes share, locks included",
                    do="give an --out on such storage",
                )
            raise RunRefused(
                "a node has other versions",
                got=f"node {where}: " + ", ".join(f"{name} {theirs}" for name, (theirs, _) in what.items()),
                expected=", ".join(f"{name} {ours}" for name, (_, ours) in what.items()),
                do="install the same on all nodes",
            )

    def runner(self, job: Job) -> Task:
        """Return what trains a job, once it is started."""
        stop = Path(f"{Path(job.out).resolve()}.stop-{self._mark}")
        self._stops.append(stop)
        job = job._replace(out=str(Path(job.out).resolve()))
        order = node.Order(job, self._sent(job), self._environment, str(self._parent), self._mark, str(stop))
        gpus = int(job.config["device"] != "cpu")
        train = self._ray.remote(
            num_cpus=job.config["threads"],
            num_gpus=gpus,
            memory=self._run_bytes,
            max_retries=_RETRIES,
            retry_exceptions=[node.Lost],
        )(node.train)
        return Task(self._ray, train, order)

    def _sent(self, job: Job) -> tuple[node.Sent, ...]:
        """Copy the files of code that a job names to where all nodes see them."""
        names = [job.env["name"], *job.env["wrappers"], job.algorithm]
        sent = []
        for path in dict.fromkeys(name.rpartition(":")[0] for name in names if FILE_AND_NAME.fullmatch(name)):
            content = Path(path).read_bytes()
            sha256 = hashlib.sha256(content).hexdigest()
            copy = self._parent / "code" / sha256[:16] / Path(path).name
            if not node.holds(copy, sha256):
                disk.make_folder(copy.parent)
                disk.replace(copy, content)
            sent.append(node.Sent(path, str(copy), sha256))
        return tuple(sent)


def _joined(address: str) -> Any:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it says once a second that it has no token
    ray = _imported()
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise ConfigRefused(
            "this cluster cannot be joined",
            got=f"{address}: {str(error).strip().splitlines()[0]}"[:300],
            expected="a Ray cluster that runs, this machine one of it, with the token that it asks for",
            do=f"ray start --address {address} on this machine first; "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE where it asks for a token",
        ) from error
    return ray


class Task:
    """A job on a cluster; used as a `Child` is."""

    def __init__(self, ray: Any, train: Any, order: node.Order) -> None:
        self.job = order.job
        self._ray, self._train, self._order = ray, train, order
        self._rows = Child(order.job)  # never started: it reads what the run says
        self._future: Any = None
        self._ended: node.Ended | None = None

    @property
    def curve(self) -> dict[int, float]:
        """The mean return of every evaluation seen, by the env steps it was due at."""
        return self._rows.curve

    @property
    def started(self) -> bool:
        """Whether it was handed to the cluster."""
        return self._future is not None

    def start(self) -> None:
        """Hand it to the cluster, which begins it where and when there is room."""
        with suppress(FileNotFoundError):
            disk.remove(Path(self._order.stop))
        self._ended, self._future = None, self._train.remote(self._order)

    def stop(self) -> None:
        """Ask it to save its state and leave."""
        if self.running:
            disk.replace(Path(self._order.stop), b"")

    @property
    def running(self) -> bool:
        """Whether it waits for room, or is trained."""
        return self.started and self._ended is None and not self._collected(0)

    def close(self, until: float) -> None:
        """Wait for its end; given up if it has not ended by then, on the monotonic clock."""
        if self.running and not self._collected(max(0.0, until - time.monotonic())):
            self._ray.cancel(self._future, force=True)
            self._ended = node.Ended(-9, "it did not stop")

    def _collected(self, timeout: float) -> bool:
        ready, _ = self._ray.wait([self._future], timeout=timeout)
        if ready:
            try:
                self._ended = self._ray.get(self._future)
            except Exception as error:  # noqa: BLE001 - whatever took the task down, the others go on
                self._ended = node.Ended(1, _in_words(error))
        return bool(ready)

    def look(self) -> Standing:
        """Read what is new of it."""
        running = self.running
        ended = self._ended
        problem = ended.words if ended is not None and ended.exit_code else ""
        code = None if ended is None else ended.exit_code
        return self._rows.look()._replace(running=running, problem=problem, exit_code=code)


def _in_words(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    return message_of(cause)[-500:]


def address_of(on: str) -> str | None:
    """Return the cluster that `--on` names: HOST:PORT, or None for one of its own.

    Raises:
        ConfigRefused: it names none.
    """
    kind, _, address = on.partition(":")
    if kind == "ray" and (not address or re.fullmatch(r"[\w.\-\[\]]+:\d{1,5}", address)):
        return address or None
    client = address.startswith("//")
    raise ConfigRefused(
        "Ray Client is not for trainings that last" if client else "there is no such place to train on",
        got=on,
        expected="local, ray, or ray:HOST:PORT",
        do="run this command on a machine of the cluster, with ray:HOST:PORT" if client else "change --on",
    )


def _imported() -> Any:
    os.environ.update(RAY_USAGE_STATS_ENABLED="0")
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ConfigRefused(
            "Ray is not installed", got=str(error), expected="the extra ray", do='pip install "t3d[ray]"'
        ) from error
    return ray
