"""A report's numbers are those that were written: a checkpoint vouches for metrics.jsonl; what none does is told."""

import json
import re

import pytest
from run_folders import write_checkpoint, write_run
from small_runs import train

from t3d import sealed
from t3d.cli.main import run as command
from t3d.errors import RunRefused
from t3d.reports import groups, numbers, page, reading

CURVE = {100: 1.0, 200: 25.5, 300: 31.25}


def notes(folder):
    (only,) = numbers.of(groups.make(reading.find([folder])))["groups"]
    return only["notes"]


def change(folder, before, after):
    """Change some text in metrics.jsonl where it stands first."""
    file = folder / "metrics.jsonl"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


@pytest.mark.parametrize("how", [[], ["--json"]], ids=["page", "json"])
def test_one_changed_digit_is_refused_with_file_and_checksums(tmp_path, capsys, how):
    run = write_run(tmp_path / "run", CURVE)
    before = sealed.checksum((run / "metrics.jsonl").read_bytes())
    change(run, "31.25", "91.25")
    assert command(["report", str(run), *how]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "metrics.jsonl is not as it was written" in said.err
    found = sealed.checksum((run / "metrics.jsonl").read_bytes())
    assert re.search(rf"got: +{run / 'metrics.jsonl'}: checksum {found} of its first", said.err)
    assert re.search(rf"expected: +{before}, says {run / 'checkpoints' / '0' / 'manifest.json'}", said.err)
    assert not (run / "report.html").exists()


def test_a_file_that_was_cut_at_a_lines_end_or_is_gone_is_refused(tmp_path):
    run = write_run(tmp_path, CURVE)
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:2]))
    size = len(b"".join(lines))
    with pytest.raises(RunRefused, match=rf"cut short(.|\n)*got: .*metrics.jsonl: (.|\n)*expected: +{size:,} or more"):
        reading.read(run)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(RunRefused, match=r"cut short(.|\n)*metrics.jsonl: 0 bytes"):
        reading.read(run)


def test_a_malformed_line_that_is_vouched_for_is_not_to_be_mended_by_hand(tmp_path):
    run = write_run(tmp_path, CURVE)
    change(run, '{"kind"', '"kind"')
    with pytest.raises(RunRefused, match=r"line 1: (.|\n)*do: +t3d resume "):
        reading.read(run)


def test_rows_behind_the_newest_checkpoint_are_reported_and_counted(tmp_path):
    run = write_run(tmp_path, CURVE)
    lengths = [len(line) for line in (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)]
    write_checkpoint(run, 0, lengths[0])
    behind = "Seed 0: Rows of metrics.jsonl newer than the newest checkpoint, which no checksum holds yet: "
    assert notes(run) == [behind + "2."]
    change(run, "31.25", "91.25")
    assert reading.read(run).evaluations == {**CURVE, 300: 91.25}
    change(run, '"wall_s": 1.0', '"wall_s": 2.0')
    with pytest.raises(RunRefused, match="not as it was written"):
        reading.read(run)
    # Wherever the position is, also within a line.
    change(run, '"wall_s": 2.0', '"wall_s": 1.0')
    write_checkpoint(run, 0, lengths[0] + 7)
    assert notes(run) == [behind + "2."]


def test_the_newest_checkpoint_that_can_be_read_counts(tmp_path):
    run = write_run(tmp_path, CURVE)
    (run / "checkpoints" / "0" / "manifest.json").unlink()
    write_checkpoint(run, 9, 40)
    newest = write_checkpoint(run, 10)
    assert notes(run) == []
    content = newest.read_bytes()
    newest.write_bytes(content[:-30])
    assert notes(run) == [
        "Seed 0: Rows of metrics.jsonl newer than the newest checkpoint, which no checksum holds yet: 3."
    ]
    newest.write_bytes(content)
    newest.parent.rename(newest.parent.with_name("10.new"))  # begun, and perhaps cut since
    assert len(notes(run)) == 1
    change(run, "evaluation", "Evaluation")
    with pytest.raises(RunRefused, match=r"checkpoints/9/manifest\.json"):
        reading.read(run)


@pytest.mark.parametrize(
    "facts",
    [{}, {"number": 1}, {"number": -1, "metrics": {"bytes": 1, "sha256": ""}}, {"number": 1, "metrics": []},
     {"number": 1, "metrics": {"bytes": 2**70, "sha256": ""}}, {"number": "1", "metrics": {"bytes": 0, "sha256": ""}}],
    ids=str,
)  # fmt: skip
def test_a_manifest_that_says_nothing_vouches_for_nothing(tmp_path, facts):
    manifest = write_checkpoint(write_run(tmp_path, CURVE))
    manifest.write_bytes(sealed.seal(facts))
    assert notes(tmp_path) == [
        "Seed 0: No checkpoint vouches for metrics.jsonl: had a number in it changed, nothing would tell."
    ]


def test_a_run_without_checkpoints_is_reported_and_the_page_says_that_nothing_vouches(tmp_path, capsys):
    run = write_run(tmp_path / "run", CURVE)
    (run / "checkpoints" / "0" / "manifest.json").unlink()
    (run / "checkpoints" / "0").rmdir()
    (run / "checkpoints").rmdir()
    assert command(["report", str(run), "--json"]) == 0
    note = "Seed 0: No checkpoint vouches for metrics.jsonl: had a number in it changed, nothing would tell."
    assert json.loads(capsys.readouterr().out)["groups"][0]["notes"] == [note]
    text = page.render(page.gather([run]))
    assert note in text[text.index("To know") :]


def test_what_a_run_has_written_is_vouched_for_once_it_has_stopped(tmp_path):
    train(tmp_path, until=30)
    assert notes(tmp_path) == ["No run has come to its end of 58 steps yet."]
    train(tmp_path, resume=True)
    assert notes(tmp_path) == []
    assert reading.read(tmp_path).finished


def test_a_file_of_a_terabyte_of_nothing_is_refused_at_its_first_line(tmp_path):
    run = write_run(tmp_path, CURVE)
    with (run / "metrics.jsonl").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(RunRefused, match=r"metrics.jsonl, line 4: "):
        reading.read(run)
