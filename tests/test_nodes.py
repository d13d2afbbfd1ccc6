"""What a node of a cluster does for a run, and where runs are trained; with Ray itself: tests/cluster."""

import hashlib
from dataclasses import replace

import pytest
import small_runs

from t3d.config import Config
from t3d.env_spec import EnvSpec
from t3d.errors import ConfigRefused, RunRefused
from t3d.execution import node, places
from t3d.execution.jobs import job_of
from t3d.presets import Choice
from t3d.storage import disk
from t3d.storage.lock import Lock


def order(folder, files=(), env="Pendulum-v1", **options):
    job = job_of(EnvSpec(env), Choice("td3", Config(), "as asked"), 0, folder / "s0")
    fields = {"environment": {}, "parent": str(folder), "mark": "here", "stop": str(folder / "s0.stop")}
    return node.Order(job, files=tuple(files), **fields | options)


def test_a_node_takes_its_own_file_where_that_is_the_same_and_else_the_copy(tmp_path):
    own, copy = tmp_path / "robots.py", tmp_path / "copy" / "robots.py"
    copy.parent.mkdir()
    copy.write_text("x = 1\n")
    sent = node.Sent(str(own), str(copy), hashlib.sha256(b"x = 1\n").hexdigest())
    asked = order(tmp_path, [sent], env=f"{own}:Arm")
    assert node.placed(asked).env["name"] == f"{copy}:Arm"
    own.write_text("x = 2\n")
    assert node.placed(asked).env["name"] == f"{copy}:Arm"
    own.write_text("x = 1\n")
    assert node.placed(asked).env["name"] == f"{own}:Arm"
    own.unlink()
    copy.write_text("x = 3\n")
    with pytest.raises(RunRefused, match="not what was sent"):
        node.placed(asked)


def test_a_node_that_does_not_see_the_folder_trains_nothing(tmp_path):
    with pytest.raises(RunRefused, match="does not see the folder"):
        node.train(order(tmp_path))
    disk.replace(node.marker_in(tmp_path), b"another command's")
    with pytest.raises(RunRefused, match="another one"):
        node.train(order(tmp_path))


def test_a_run_that_was_stopped_while_it_waited_for_room_never_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(node, "look_around", lambda *_: {"folder": "it"})
    monkeypatch.setattr(node, "Child", None)  # it would fail
    disk.replace(tmp_path / "s0.stop", b"")
    assert node.train(order(tmp_path)) == (143, "stopped before it began")


def test_a_child_that_was_killed_is_lost_and_one_that_fails_is_told(tmp_path, monkeypatch):
    class Ends:
        running = False
        code = -9

        def __init__(self, job):
            pass

        def start(self, environment, module):
            assert module == "t3d.execution.apart"

        def close(self, until):
            pass

        def look(self):
            return type("Standing", (), {"exit_code": self.code, "problem": "killed by SIGKILL"})

    monkeypatch.setattr(node, "look_around", lambda *_: {"folder": "it"})
    monkeypatch.setattr(node, "Child", Ends)
    with pytest.raises(node.Lost, match="SIGKILL"):
        node.train(order(tmp_path))
    monkeypatch.setattr(Ends, "code", 1)
    assert node.train(order(tmp_path)).exit_code == 1


def test_a_folder_that_is_seen_but_not_as_locked_is_told_from_one_that_is(tmp_path):
    disk.replace(node.marker_in(tmp_path), b"here")
    assert node.look_around(str(tmp_path), "here")["folder"] == "it, but not that it is locked"
    held = Lock(tmp_path)
    assert node.look_around(str(tmp_path), "here")["folder"] == "it"
    held.close()


def test_how_many_runs_there_are_at_a_time(monkeypatch):
    monkeypatch.setattr(places, "usable_cores", lambda: 2)
    plain, robot = Config(), Config(hardware=True)
    assert places.side_by_side(None, 5, plain, "local") == (2, 2)
    assert places.side_by_side(None, 5, robot, "local") == (1, 1)
    assert places.side_by_side(9, 5, plain, "local") == (5, 5)
    assert places.side_by_side(None, 50, plain, "ray") == (50, 1)
    assert places.side_by_side(3, 50, plain, "ray:10.0.0.1:6379") == (3, 1)
    for config, on, says in (
        (robot, "ray", "wherever it has room"),
        (replace(plain, device="cuda:1"), "ray", "wherever it has room"),
        (plain, "ray://10.0.0.1:10001", "Ray Client"),
        (plain, "kubernetes", "no such place"),
    ):
        with pytest.raises(ConfigRefused, match=says):
            places.side_by_side(None, 5, config, on)


def test_on_this_machine_nothing_knows_of_ray(tmp_path):
    with places.place("local", tmp_path, EnvSpec(small_runs.PROBE), 10) as runner:
        assert runner is places.Child
