"""Damaged files: every length a file of a run can be cut to, and flipped bits. Refused, or it makes no difference."""

import dataclasses
import logging
import random
import shutil

import pytest
from small_runs import Opener, train

import t3d
from t3d.replay import NOTHING
from t3d.reports import read_runs
from t3d.runs import run_folder

READ = ("config.json", "metrics.jsonl", "replay", "newest state", "newest manifest", "older state", "older manifest")
OPTIONS = {"batch_size": 1}  # so that a memory may lose nearly all
POLICIES = ("best.safetensors", "last.safetensors")
REPORTED = ("config.json", "metrics.jsonl", "newest manifest", "older manifest")


class Damaged:
    """A run, and how it opens when one of its files is not as it was written."""

    def __init__(self, path):
        self.path = path
        train(path, **OPTIONS)
        newest, older = sorted((path / "checkpoints").iterdir(), key=lambda p: -int(p.name))
        (segment,) = (path / "replay").iterdir()
        self.files = {"config.json": path / "config.json", "metrics.jsonl": path / "metrics.jsonl", "replay": segment}
        for which, checkpoint in (("newest", newest), ("older", older)):
            self.files[f"{which} state"] = checkpoint / "state.safetensors"
            self.files[f"{which} manifest"] = checkpoint / "manifest.json"
        self.files |= {name: path / "policy" / name for name in POLICIES}
        assert set(self.files) == {*READ, *POLICIES}
        self.whole = {name: file.read_bytes() for name, file in self.files.items()}
        self.opener = Opener(path, **OPTIONS)
        self.as_newest, problems = self.opener.open()
        assert (problems, self.opener.lost, self.opener.lost_slots) == ([], None, "")
        self.slots = self.read_slots()
        newest.rename(path / "aside")
        self.as_older, _ = self.opener.open()
        self.slots = [older | newest for older, newest in zip(self.read_slots(), self.slots, strict=True)]
        (path / "aside").rename(newest)
        assert self.as_older != self.as_newest
        self.info = run_folder.read_config(path)
        self.policies = {name: self.policy(name) for name in POLICIES}
        self.read = read_runs.read(path)  # all that a report says follows from this
        assert self.read.notes == ()

    def policy(self, name):
        policy = t3d.load(self.path / "policy" / name)
        return policy.info, [weight.tobytes() for operation in policy.operations for weight in operation.weights]

    def read_slots(self):
        """Return the slots of the memory that was read last, of each stream by their positions, but its open one."""
        replay = self.opener.trainer.replay
        spans = [range(replay.oldest(env), written - 1) for env, written in enumerate(replay.written)]
        slots = (replay.rows(env, span.start, span.stop) for env, span in enumerate(spans))
        return [dict(zip(span, rows, strict=True)) for span, rows in zip(spans, slots, strict=True)]

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
        if name == "config.json":
            assert run_folder.read_config(self.path) == self.info
        state, problems = self.opener.open()
        if self.opener.lost:
            assert (name, state, problems) == ("metrics.jsonl", self.as_newest, [])
            return "rows lost"
        if self.opener.lost_slots:
            assert name == "replay"
            self.check_slots()
            return "slots lost"
        if state == self.as_newest:
            assert problems == [] or (name.startswith("older") and file.name in problems[0])
            return "harmless"
        assert state == self.as_older
        assert len(problems) == 1
        assert file.name in problems[0]
        return "older"

    def check_slots(self):
        """Whatever is sampled was stored: a slot is as it was, or empty; so is the one before an empty one."""
        for found, true in zip(self.read_slots(), self.slots, strict=True):
            there = {position for position, slot in found.items() if (slot["obs"] == true[position]["obs"]).all()}
            for position, slot in found.items():
                kept = position in there and (position + 1 in there or position + 1 not in found)
                assert slot["ended"] == (true[position]["ended"] if kept else NOTHING)
                assert slot["ended"] == NOTHING or slot.tobytes() == true[position].tobytes()

    def as_reported(self, name, file):
        seen = read_runs.read(self.path)
        if name == "metrics.jsonl" and seen.notes:
            assert all(rows == self.read.rows[kind][: len(rows)] for kind, rows in seen.rows.items())
            return "told"
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
    return sorted({*range(12), *range(0, whole, -(-whole // 20)), *range(whole - 6, whole)})


# Nobody looks at the older checkpoint's tensors while the newest is whole.
ALLOWED = {
    "config.json": {"refused"},
    "metrics.jsonl": {"rows lost"},
    "replay": {"slots lost", "refused", "harmless"},  # not even a batch is left; what was overwritten long ago
    "newest state": {"older"},
    "newest manifest": {"older"},
    "older state": {"harmless"},
    "older manifest": {"harmless"},
    "best.safetensors": {"refused"},
    "last.safetensors": {"refused"},
}


def check_cuts(run, name, lengths):
    outcomes = cut(run, name, lengths)
    assert set(outcomes) <= ALLOWED[name]
    if name == "replay":
        assert max(outcomes["refused"]) < min(outcomes["slots lost"])
        assert "harmless" not in outcomes


@pytest.mark.parametrize("name", [*READ, *POLICIES])
def test_a_file_cut_short_is_refused_or_the_older_checkpoint_is_used(run, name):
    check_cuts(run, name, some(len(run.whole[name])))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*READ, *POLICIES])
def test_a_file_cut_to_any_length_is_refused_or_the_older_checkpoint_is_used(run, name):
    check_cuts(run, name, range(len(run.whole[name])))


# What a report says of a run with this file cut short or changed. It needs no checkpoint.
REPORTS = {
    "config.json": {"refused"},
    "metrics.jsonl": {"told"},
    "newest manifest": {"harmless"},
    "older manifest": {"harmless"},
}


@pytest.mark.parametrize("name", REPORTED)
def test_no_file_cut_short_gives_another_report_without_a_word(run, name):
    assert set(cut(run, name, some(len(run.whole[name])), run.as_reported)) == REPORTS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", REPORTED)
def test_no_file_cut_to_any_length_gives_another_report_without_a_word(run, name):
    assert set(cut(run, name, range(len(run.whole[name])), run.as_reported)) == REPORTS[name]


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


def check_flips(outcomes, allowed):
    assert len({name for name, _ in outcomes}) == len({name for name, _ in outcomes} & set(allowed))
    for name, came in outcomes:
        assert came in allowed[name], (name, came)


def test_a_changed_byte_is_refused_or_makes_no_difference(run):
    check_flips(flip(run, 0, 250), ALLOWED)


def test_no_byte_of_a_policy_is_overlooked(run):
    """A space becomes a tab, which is the same in JSON, and the description's last brace a letter."""
    whole = run.whole["best.safetensors"]
    for at in range(len(whole)):
        changed = whole[:at] + bytes([whole[at] ^ 0x29]) + whole[at + 1 :]
        assert run.with_content("best.safetensors", changed) == "refused", at


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_of_a_hundred_thousand_changed_bytes_none_gives_another_state(run, seed):
    check_flips(flip(run, seed, 10_000), ALLOWED)


def test_no_changed_byte_gives_another_report_without_a_word(run):
    check_flips(flip(run, 0, 200, REPORTED, run.as_reported), REPORTS)


@pytest.mark.slow
def test_of_ten_thousand_changed_bytes_none_gives_another_report_without_a_word(run):
    check_flips(flip(run, 1, 10_000, REPORTED, run.as_reported), REPORTS)


@pytest.mark.parametrize("name", ["newest state", "newest manifest"])
def test_with_its_newest_checkpoint_damaged_a_run_ends_the_same_and_says_so(run, name, tmp_path, caplog):
    whole = train(tmp_path / "whole", steps=90, **OPTIONS).trainer.agent.tensors()
    shutil.copytree(run.path, tmp_path / "run")
    file = tmp_path / "run" / run.files[name].relative_to(run.path)
    file.write_bytes(run.whole[name][:-40])
    with caplog.at_level(logging.WARNING, "t3d"):
        session = train(tmp_path / "run", steps=90, resume=True, **OPTIONS)
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


def test_behind_a_damaged_checkpoint_the_one_that_was_taken_is_kept(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / run.files["newest state"].relative_to(run.path)).write_bytes(run.whole["newest state"][:-40])
    train(tmp_path / "run", steps=90, until=56, resume=True, **OPTIONS)
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert ("50" in kept, len(kept)) == (True, 2)


def test_with_both_damaged_it_is_refused_and_nothing_is_changed(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    for name in ("newest state", "older manifest"):
        (tmp_path / "run" / run.files[name].relative_to(run.path)).write_bytes(b"")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(t3d.Refused, match=r"no checkpoint of this run can be used(.|\n)*50/manifest(.|\n)*58/state"):
        train(tmp_path / "run", steps=90, resume=True, **OPTIONS)
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert {path.name for path in after if path not in before} <= {"lock"}
    assert {path: after[path] for path in before if path.name != "lock"} == {
        path: content for path, content in before.items() if path.name != "lock"
    }
