"""Runs on two nodes of Ray, in a network namespace of their own: what is killed goes on, and ends as if nothing was.

`make test-cluster` runs this file within `unshare -n`: no socket of it can be reached from outside.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

HEAD, OTHER, PORT = "10.77.0.1", "10.77.0.2", 6379  # ports of 10002 to 19999 are the workers'
OPTIONS = ["--steps", "2_000", "--random-steps", "200", "--eval-every", "1_000", "--eval-episodes", "2"]
OPTIONS += ["--checkpoint-seconds", "1", "--no-video"]
OWN = Path(__file__).parent.parent / "own_envs.py"

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", autouse=True)
def network():
    """Addresses of two machines, and a way that leads nowhere: Ray asks which address packets would leave by."""
    if {name for _, name in socket.if_nameindex()} != {"lo"}:
        pytest.fail("this is not a network namespace of its own: run make test-cluster")
    for command in (
        "link set lo up",
        f"addr add {HEAD}/32 dev lo",
        f"addr add {OTHER}/32 dev lo",
        f"route add default dev lo src {HEAD}",
    ):
        subprocess.run(["ip", *command.split()], check=True)


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """The variables of everything that may use the cluster."""
    token = tmp_path_factory.mktemp("secret") / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    return {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}


def start_node(secret, *options, under=()):
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
    ray += ["--object-store-memory=80000000", *options]
    return subprocess.Popen(
        [*under, *ray], env=secret, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def start_other(secret, **given):
    return start_node(secret, f"--address={HEAD}:{PORT}", f"--node-ip-address={OTHER}", **given)


def kill_node(node):
    """End everything that belongs to a node at once, as when its machine fails."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    node.wait()


def wait_for(what, seconds=120):
    give_up = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < give_up, what
        time.sleep(0.1)
    return found


def nodes(secret):
    code = (
        f"import ray; ray.init('{HEAD}:{PORT}', log_to_driver=False, logging_level='ERROR'); "
        "print(sum(node['Alive'] for node in ray.nodes()))"
    )
    asked = subprocess.run([sys.executable, "-c", code], env=secret, capture_output=True, text=True, check=False)
    return int((asked.stdout.split() or ["0"])[0])  # Ray may say more behind it


@pytest.fixture(scope="module")
def head(secret):
    short = Path("/tmp") / f"t3d-ray-{os.getpid()}"
    options = f"--head --node-ip-address={HEAD} --port={PORT} --include-dashboard=false --temp-dir={short}"
    node = start_node(secret, *options.split())
    wait_for(lambda: nodes(secret) == 1)
    yield
    kill_node(node)
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture
def other(head, secret):
    """Start the second node; the process that it is, for whoever kills it."""
    started = []

    def start(**given):
        started.append(start_other({**secret, **given.pop("variables", {})}, **given))
        wait_for(lambda: nodes(secret) == 2)
        return started[-1]

    yield start
    for node in started:
        kill_node(node)
    wait_for(lambda: nodes(secret) == 1)


def command(out, *more, env="Pendulum-v1", seeds=2, on=f"ray:{HEAD}:{PORT}"):
    words = ["train", env, "--seeds", str(seeds), *OPTIONS, "--out", str(out), "--on", on, *more]
    return [sys.executable, "-m", "t3d", *words]


def children(out):
    """Return the processes that train runs in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "t3d.execution.jobs" in words and str(out) in words[-1]:
                found.append(process)
    return found


def workers(out):
    """Return the processes of Ray whose tasks wait for these: above a child stands the process that keeps it apart."""
    return [child.parent().parent() for child in children(out)]


def env_steps(run):
    log = run / "metrics.jsonl"
    return log.read_text().count('"episode"') * 200 if log.exists() else 0


def outcome(folder):
    """Return what must be the same to the bit: of each run its policies."""
    runs = sorted(path for path in folder.iterdir() if (path / "config.json").exists())
    return {run.name: [file.read_bytes() for file in sorted((run / "policy").iterdir())] for run in runs}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("local") / "runs"
    subprocess.run(command(out, seeds=8, on="local"), check=True, capture_output=True)
    return outcome(out)


def test_a_process_a_worker_and_a_node_are_killed_and_every_run_ends_as_if_nothing_was(
    other, secret, tmp_path, undisturbed
):
    out, second = tmp_path / "runs", other()
    with subprocess.Popen(
        command(out, seeds=8), env=secret, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as driver:
        wait_for(lambda: env_steps(out / "s0") >= 600)
        wait_for(lambda: children(out / "s0"))[0].kill()
        wait_for(lambda: env_steps(out / "s1") >= 600)
        wait_for(lambda: workers(out))[0].kill()
        wait_for(lambda: len(children(out)) == 2)
        kill_node(second)
        said, errors = driver.communicate(timeout=240)
    assert driver.returncode == 0, errors
    assert "mean of 8 seeds" in said
    assert outcome(out) == undisturbed
    assert not [path.name for path in out.iterdir() if path.name == "cluster" or ".stop-" in path.name]


def test_ctrl_c_stops_all_saved_and_the_same_command_goes_on(head, secret, tmp_path, undisturbed):
    out = tmp_path / "runs"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command(out), env=secret, **pipes) as driver:
        wait_for(lambda: env_steps(out / "s0") >= 400)
        driver.send_signal(signal.SIGINT)
        _, errors = driver.communicate(timeout=90)
    assert driver.returncode == 130, errors
    assert "Traceback" not in errors
    assert not children(out)
    again = subprocess.run(command(out, "--resume", "auto"), env=secret, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert outcome(out) == {run: undisturbed[run] for run in ("s0", "s1")}


def test_children_end_saved_when_the_command_is_killed(head, secret, tmp_path):
    out = tmp_path / "runs"
    with subprocess.Popen(
        command(out, seeds=1), env=secret, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as driver:
        wait_for(lambda: env_steps(out / "s0") >= 400)
        driver.kill()
    wait_for(lambda: not children(out), 60)
    assert list((out / "s0" / "checkpoints").glob("*/manifest.json"))


def test_a_study_plays_its_trials_on_the_cluster(head, secret, tmp_path):
    words = ["tune", "Pendulum-v1", "--trials", "2", "--seeds", "1", "--confirm", "0", "--jobs", "1", "--steps", "300"]
    words += ["--random-steps", "100", "--eval-episodes", "1", "--on", f"ray:{HEAD}:{PORT}", "--out", str(tmp_path)]
    ended = subprocess.run([sys.executable, "-m", "t3d", *words], env=secret, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "tuned.toml").is_file()
    assert len(list((tmp_path / "trials").glob("*/s0/config.json"))) == 2


def test_a_file_of_code_travels_and_a_gone_file_is_run_from_its_copy(other, secret, tmp_path):
    # The other node sees no folder of the first one but that of the runs.
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir()
    own.mkdir()
    shutil.copy(OWN, own / "robots.py")
    hidden = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs tmpfs {own} && exec "$0" "$@"']
    other(under=hidden)
    out = shared / "runs"
    env = f"{own / 'robots.py'}:Walk"
    done = subprocess.run(command(out, env=env), env=secret, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (out / "code").glob("*/*")] in ([], ["robots.py"])  # the first node may have had both
    assert len(outcome(out)) == 2


def refused(secret, out, *more, **given):
    done = subprocess.run(command(out, *more, **given), env=secret, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_node_that_does_not_see_the_folder_is_refused(other, secret, tmp_path):
    seen = tmp_path / "seen"
    seen.mkdir()
    hidden = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs tmpfs {seen} && exec "$0" "$@"']
    other(under=hidden)
    said = refused(secret, seen / "runs")
    assert f"node {OTHER} sees nothing" in said
    assert "storage that all nodes share" in said


def test_a_node_with_another_version_is_refused(other, secret, tmp_path):
    (tmp_path / "t3d-9.9.dist-info").mkdir()
    (tmp_path / "t3d-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: t3d\nVersion: 9.9\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), secret.get("PYTHONPATH")]))
    other(variables={"PYTHONPATH": path})
    assert f"node {OTHER}: t3d 9.9" in refused(secret, tmp_path / "runs")


def test_without_the_token_nobody_joins_and_nothing_is_left(head, secret, tmp_path):
    stranger = {name: value for name, value in secret.items() if not name.startswith("RAY_AUTH")}
    said = refused({**stranger, "HOME": str(tmp_path)}, tmp_path / "runs", seeds=1)
    assert "this cluster cannot be joined" in said
    assert "RAY_AUTH_TOKEN_PATH" in said
    assert not list((tmp_path / "runs").iterdir())


def test_a_cluster_of_its_own_keeps_its_token_to_itself(tmp_path):
    with subprocess.Popen(
        command(tmp_path / "runs", seeds=1, on="ray"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as driver:
        (child,) = wait_for(lambda: children(tmp_path))
        assert not [name for name in child.environ() if name.startswith("RAY_")]
        tokens = list(Path("/tmp").glob("t3d-token-*/token"))
        assert [oct(path.stat().st_mode & 0o777) for path in tokens] == ["0o600"]
        text = tokens[0].read_text()
        words = [word for process in psutil.process_iter(["cmdline"]) for word in process.info["cmdline"] or []]
        assert not [word for word in words if text in word]
        _, errors = driver.communicate(timeout=120)
    assert driver.returncode == 0, errors
    assert not tokens[0].exists()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if text.encode() in path.read_bytes()]


def test_no_socket_can_be_reached_from_outside():
    # A namespace without any other device: what listens on all addresses listens on these alone.
    assert {name for _, name in socket.if_nameindex()} == {"lo"}
