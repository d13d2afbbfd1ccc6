"""Damaged files: every length a file of a run can be cut to, and flipped bits. Refused, or it makes no difference."""

import dataclasses
import logging
import random
import shutil

import pytest
from small_runs import PROBE, Opener, train

import t3d
from t3d.reports import reading
from t3d.runs import folder as run_folder

READ = (
    "config.json",
    "metrics.jsonl",
    "metrics.copy",
    "replay",
    "newest state",
    "newest manifest",
    "older state",
    "older manifest",
)
POLICIES = ("best.safetensors", "best.json", "last.safetensors", "last.json")
REPORTED = ("config.json", "metrics.jsonl", "newest manifest", "older manifest")


class Damaged:
    """A run, and how it opens when one of its files is not as it was written."""

    def __init__(self, path):
        self.path = path
        self.final = train(path).trainer.agent.tensors()
        newest, older = sorted((path / "checkpoints").iterdir(), key=lambda p: -int(p.name))
        (segment,) = (path / "replay").iterdir()
        self.files = {name: path / name for name in ("config.json", "metrics.jsonl", "metrics.copy")}
        self.files["replay"] = segment
        for which, checkpoint in (("newest", newest), ("older", older)):
            self.files[f"{which} state"] = checkpoint / "state.safetensors"
            self.files[f"{which} manifest"] = checkpoint / "manifest.json"
        self.files |= {name: path / "policy" / name for name in POLICIES}
        assert set(self.files) == {*READ, *POLICIES}
        self.whole = {name: file.read_bytes() for name, file in self.files.items()}
        self.opener = Opener()
        self.as_newest, problems = self.opener.open(path)
        assert problems == []
        assert self.opener.mended == ""
        newest.rename(path / "aside")
        self.as_older, _ = self.opener.open(path)
        (path / "aside").rename(newest)
        assert self.as_older != self.as_newest
        self.info = run_folder.read_config(path)
        self.policies = {name: self.policy(name) for name in POLICIES}
        self.read = reading.read(path)  # all that a report says follows from this
        assert self.read.notes == ()

    def policy(self, name):
        policy = t3d.load(self.path / "policy" / name.replace(".json", ".safetensors"))
        return policy.info, [weight.numpy().tobytes() for weight in policy._body.state_dict().values()]

    def with_content(self, name, content, outcome=None):
        """Put other bytes in a file's place, open what reads it, and say what came of it."""
        file = self.files[name]
        file.write_bytes(content)
        try:
            return (outcome or self.outcome)(name, file)
        except t3d.T3DError as error:
            assert isinstance(error, t3d.Refused)
            assert file.name in str(error), error
            return "refused"
        finally:
            file.write_bytes(self.whole[name])

    def outcome(self, name, file):
        if name in POLICIES:
            assert self.policy(name) == self.policies[name]
            return "harmless"
        assert run_folder.read_config(self.path)._replace(damage="") == self.info
        state, problems = self.opener.open(self.path)
        if self.opener.mended:
            assert (state, problems) == (self.as_newest, [])
            assert file.name in self.opener.mended
            return "mended"
        if state == self.as_newest:
            assert problems == [] or (name.startswith("older") and file.name in problems[0])
            return "harmless"
        assert state == self.as_older
        assert len(problems) == 1
        assert file.name in problems[0]
        return "older"

    def as_reported(self, name, file):
        seen = reading.read(self.path)
        assert dataclasses.replace(seen, notes=()) == self.read
        return "told" if seen.notes else "harmless"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Damaged(tmp_path_factory.mktemp("damage") / "run")


def cut(run, name, lengths, outcome=None):
    """Cut a file to each of some lengths; return {outcome: lengths}."""
    outcomes = {}
    for length in lengths:
        outcomes.setdefault(run.with_content(name, run.whole[name][:length], outcome), []).append(length)
    return outcomes


def some(whole):
    """Return some lengths of a file, its ends among them."""
    return sorted({*range(12), *range(0, whole, -(-whole // 40)), *range(whole - 6, whole)})


# What is behind an object's last brace is white space.
BRACE = dict.fromkeys(("config.json", "newest manifest", "older manifest", "best.json", "last.json"), 1)
# There is a copy of config.json and of metrics.jsonl. Nobody looks at the older checkpoint's tensors while the newest
# is whole.
ALLOWED = {
    "config.json": "mended",
    "metrics.jsonl": "mended",
    "metrics.copy": "mended",
    "newest state": "older",
    "newest manifest": "older",
    "older state": "harmless",
    "older manifest": "harmless",
}


def check_cuts(run, name, lengths):
    whole = len(run.whole[name])
    outcomes = cut(run, name, lengths)
    harmless = [n for n in outcomes.pop("harmless", []) if n < whole - BRACE.get(name, 0)]
    expected = ALLOWED.get(name, "refused")
    if name == "replay":  # the older checkpoint needs less of it
        older = outcomes.pop("older", [])
        assert all(n > max(outcomes["refused"]) for n in older)
    if expected == "harmless":
        assert not outcomes
    else:
        assert harmless == []
        assert set(outcomes) <= {expected}


@pytest.mark.parametrize("name", [*READ, *POLICIES])
def test_a_file_cut_short_is_refused_or_the_older_checkpoint_is_used(run, name):
    check_cuts(run, name, some(len(run.whole[name])))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*READ, *POLICIES])
def test_a_file_cut_to_any_length_is_refused_or_the_older_checkpoint_is_used(run, name):
    check_cuts(run, name, range(len(run.whole[name])))


# What a report says of a run with this file cut short. Only the newest checkpoint vouches for all rows.
REPORTS = {
    "config.json": "refused",
    "metrics.jsonl": "refused",
    "newest manifest": "told",
    "older manifest": "harmless",
}


def check_reported_cuts(run, name, lengths):
    outcomes = cut(run, name, lengths, run.as_reported)
    outcomes.pop(REPORTS[name])
    assert all(n >= len(run.whole[name]) - BRACE.get(name, 0) for lengths in outcomes.values() for n in lengths)


@pytest.mark.parametrize("name", REPORTED)
def test_no_file_cut_short_gives_another_report_without_a_word(run, name):
    check_reported_cuts(run, name, some(len(run.whole[name])))


@pytest.mark.slow
@pytest.mark.parametrize("name", REPORTED)
def test_no_file_cut_to_any_length_gives_another_report_without_a_word(run, name):
    check_reported_cuts(run, name, range(len(run.whole[name])))


def flip(run, seed, times, names=(*READ, *POLICIES), outcome=None):
    """Change one random byte of one random file, so often; return how often came what, by file."""
    rng = random.Random(seed)
    outcomes = {}
    for _ in range(times):
        name = rng.choice(names)
        content = bytearray(run.whole[name])
        content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        came = run.with_content(name, bytes(content), outcome)
        outcomes[name, came] = outcomes.get((name, came), 0) + 1
    return outcomes


def check_flips(outcomes):
    """White space and other spellings of the same number are harmless in JSON; nothing is in what else is read."""
    came = {}
    for name, outcome in outcomes:
        came.setdefault(name, set()).add(outcome)
    assert came.pop("config.json") <= {"mended", "harmless"}
    assert came.pop("newest manifest") <= {"older", "harmless"}
    assert {came.pop(name) == {"refused"} for name in POLICIES if name.endswith(".safetensors")} == {True}
    assert [came.pop(name) <= {"refused", "harmless"} for name in POLICIES if name.endswith(".json")] == [True, True]
    assert came == {
        "metrics.jsonl": {"mended"},
        "metrics.copy": {"mended"},
        "replay": {"mended"},
        "newest state": {"older"},
        "older state": {"harmless"},
        "older manifest": {"harmless"},
    }
    assert outcomes["config.json", "mended"] > outcomes.get(("config.json", "harmless"), 0)
    assert outcomes["newest manifest", "older"] > outcomes.get(("newest manifest", "harmless"), 0)


def test_a_changed_byte_is_refused_or_makes_no_difference(run):
    check_flips(flip(run, 0, 500))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_of_a_hundred_thousand_changed_bytes_none_gives_another_state(run, seed):
    check_flips(flip(run, seed, 10_000))


def check_reported_flips(outcomes):
    assert {came for name, came in outcomes if name == "metrics.jsonl"} == {"refused"}
    assert {came for name, came in outcomes if name == "older manifest"} == {"harmless"}
    assert {came for name, came in outcomes if name == "config.json"} <= {"refused", "harmless"}
    assert {came for name, came in outcomes if name == "newest manifest"} <= {"told", "harmless"}
    assert outcomes["config.json", "refused"] > outcomes.get(("config.json", "harmless"), 0)
    assert outcomes["newest manifest", "told"] > outcomes.get(("newest manifest", "harmless"), 0)


def test_no_changed_byte_gives_another_report_without_a_word(run):
    check_reported_flips(flip(run, 0, 200, REPORTED, run.as_reported))


@pytest.mark.slow
def test_of_ten_thousand_changed_bytes_none_gives_another_report_without_a_word(run):
    check_reported_flips(flip(run, 1, 10_000, REPORTED, run.as_reported))


@pytest.mark.parametrize("name", ["newest state", "newest manifest"])
def test_with_its_newest_checkpoint_damaged_a_run_ends_the_same_and_says_so(run, name, tmp_path, caplog):
    whole = train(tmp_path / "whole", steps=90).trainer.agent.tensors()
    shutil.copytree(run.path, tmp_path / "run")
    file = tmp_path / "run" / run.files[name].relative_to(run.path)
    file.write_bytes(run.whole[name][:-40])
    with caplog.at_level(logging.WARNING, "t3d"):
        session = train(tmp_path / "run", steps=90, resume=True)
    assert session.resumed_at == 50
    assert file.name in caplog.text
    assert "cannot be used" in caplog.text
    assert not file.parent.exists() or file.read_bytes() != run.whole[name][:-40]
    assert (
        "cannot be used" in (tmp_path / "run" / "metrics.jsonl").read_text()
        or file.name in (tmp_path / "run" / "metrics.jsonl").read_text()
    )
    ended = session.trainer.agent.tensors()
    assert {k: v.numpy().tobytes() for k, v in ended.items()} == {k: v.numpy().tobytes() for k, v in whole.items()}


def test_with_both_damaged_it_is_refused_and_nothing_is_changed(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    for name in ("newest state", "older manifest"):
        (tmp_path / "run" / run.files[name].relative_to(run.path)).write_bytes(b"")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(t3d.Refused, match=r"no checkpoint of this run can be used(.|\n)*50/manifest(.|\n)*58/state"):
        train(tmp_path / "run", steps=90, resume=True)
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert {path.name for path in after if path not in before} <= {"lock"}
    assert {path: after[path] for path in before if path.name != "lock"} == {
        path: content for path, content in before.items() if path.name != "lock"
    }


def test_the_probe_is_the_one_meant():
    assert PROBE.endswith("probes.py:Counting")
