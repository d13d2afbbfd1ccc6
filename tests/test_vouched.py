"""A report's numbers are those that were written: whatever changes in metrics.jsonl shows at its row, and is told."""

import json

import pytest
from run_folders import evaluation, row, rows_of, write_checkpoint, write_rows, write_run
from small_runs import train

from t3d.cli.main import run as command
from t3d.errors import RunRefused
from t3d.reports import charts, grouping, page, read_runs, summary

CURVE = {100: 1.0, 200: 25.5, 300: 31.25}


def notes(folder):
    (only,) = summary.summarize(grouping.group_runs(read_runs.find([folder])))["groups"]
    return only["notes"]


def change(folder, before, after):
    """Change some text in metrics.jsonl where it stands first."""
    file = folder / "metrics.jsonl"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


def test_one_changed_digit_leaves_out_its_row_and_all_behind_it_and_page_and_json_say_so(tmp_path, capsys):
    run = write_run(tmp_path / "run", CURVE)
    change(run, "25.5", "26.5")
    assert command(["report", str(run), "--json"]) == 0
    (only,) = json.loads(capsys.readouterr().out)["groups"]
    assert only["env_steps"] == [100]
    (note, not_ended) = only["notes"]
    assert note.startswith(
        "Seed 0: metrics.jsonl is damaged: its lines from 3 on are left out (not as it was written: "
    )
    assert not_ended == "No run has come to its end of 300 steps yet."
    assert "its lines from 3 on are left out" in page.render(page.gather([run]))


@pytest.mark.parametrize("what", ["left out", "twice", "exchanged"])
def test_no_row_can_be_left_out_added_or_exchanged(tmp_path, what):
    run = write_run(tmp_path, CURVE)
    first, one, two, three = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    other = {"left out": [first, one, three], "twice": [first, one, one, two, three]}
    lines = other.get(what, [first, one, three, two])
    (run / "metrics.jsonl").write_bytes(b"".join(lines))
    assert list(read_runs.read(run).evaluations) == [100]
    assert "its lines from 3 on" in notes(run)[0]


def test_a_file_that_was_cut_at_a_lines_end_or_is_gone_is_noticed_by_the_checkpoint(tmp_path):
    run = write_run(tmp_path, CURVE)
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:2]))
    whole, left = len(b"".join(lines)), len(b"".join(lines[:2]))
    assert notes(run)[0] == f"Seed 0: metrics.jsonl is cut short: it had {whole:,} bytes, and has {left:,}."
    (run / "metrics.jsonl").unlink()
    assert read_runs.read(run).notes == (f"metrics.jsonl is cut short: it had {whole:,} bytes, and has 0.",)


def test_the_newest_checkpoint_that_can_be_read_counts_and_none_is_needed(tmp_path):
    run = write_run(tmp_path, CURVE)
    newest = write_checkpoint(run, 10)
    write_checkpoint(run, 9, 40)
    assert notes(run) == []
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:3]))
    assert "cut short" in notes(run)[0]
    content = newest.read_bytes()
    for damaged in (content[:-30], content.replace(b'"number": 10', b'"number": 11')):
        newest.write_bytes(damaged)
        (run / "checkpoints" / "0" / "manifest.json").unlink(missing_ok=True)
        assert "cut short" not in notes(run)[0]
    newest.write_bytes(content)
    newest.parent.rename(newest.parent.with_name("10.new"))  # begun, and never committed
    assert "cut short" not in notes(run)[0]


def test_rows_of_another_run_are_refused(tmp_path):
    one, two = (write_run(tmp_path / f"s{seed}", CURVE, seed=seed) for seed in (0, 1))
    (one / "metrics.jsonl").write_bytes((two / "metrics.jsonl").read_bytes())
    with pytest.raises(RunRefused, match=r"metrics\.jsonl is another run's"):
        read_runs.read(one)


def test_what_a_run_has_written_is_whole_whenever_it_is_read(tmp_path):
    train(tmp_path, until=30)
    assert notes(tmp_path) == ["No run has come to its end of 58 steps yet."]
    train(tmp_path, resume=True)
    assert notes(tmp_path) == []
    assert read_runs.read(tmp_path).finished


def test_a_file_of_a_terabyte_of_nothing_is_left_out_at_its_first_line(tmp_path):
    run = write_run(tmp_path, CURVE)
    with (run / "metrics.jsonl").open("r+b") as file:
        file.truncate(2**40)
    assert "its lines from 5 on are left out" in notes(run)[0]


# ---- Where rows were lost and the run went on


def gone(run, *lost):
    """Take the evaluations at 200 from a run's rows, and say that they are gone."""
    rows = [one for one in rows_of(run) if (one["kind"], one["env_steps"]) != ("evaluation", 200)]
    write_rows(run, [*rows[:-1], row("event", 250, what="rows are gone: it was damaged", lost=lost), rows[-1]])
    write_checkpoint(run)


def test_a_gap_is_told_and_every_curve_has_a_break_there(tmp_path):
    updates = [
        row("update", step, updates=step, critic_loss=1.0, actor_loss=None, q1=0.0, q2=None, target_q=float(step))
        for step in (100, 150, 250, 300)
    ]
    run = write_run(tmp_path / "s0", CURVE, extra=updates)
    write_run(tmp_path / "s1", CURVE, seed=1)
    gone(run, 150, 240)
    assert read_runs.read(run).gaps == ((150, 240),)
    assert notes(run) == ["Seed 0: Rows between env steps 150 and 240 are gone: metrics.jsonl was damaged."]
    shown = page.render(page.gather([run]))
    assert shown.count("Rows between env steps 150 and 240 are gone") == 1
    assert "rows are gone: it was damaged" not in shown
    made = grouping.group_runs(read_runs.find([tmp_path]))
    drawn = charts.learning(made, summary.summarize(made)["groups"])["groups"][0]
    assert drawn["runs"][0]["points"] == [(100, 1.0), (200.0, None), (300, 31.25)]
    assert drawn["runs"][1]["points"] == sorted(CURVE.items())
    # The mean needs every seed.
    assert drawn["frames"] == [100, 200.0, 300]
    assert drawn["mean"]["value"] == [1.0, None, 31.25]
    assert drawn["mean"]["low"][1] is None
    (target_q,) = [chart for chart in charts.small(made, ("update",)) if chart["title"] == "target Q"]
    assert target_q["lines"][0]["points"] == [(100, 100.0), (150, 150.0), (200.0, None), (250, 250.0), (300, 300.0)]


def test_a_gap_before_and_behind_all_points_breaks_nothing(tmp_path):
    run = write_run(tmp_path, {100: 1.0, 300: 2.0})
    rows = rows_of(run)
    lost = [row("event", 300, what="rows are gone", lost=span) for span in ((0, 90), (300, 310))]
    write_rows(run, [*rows, *lost])
    made = grouping.group_runs(read_runs.find([run]))
    assert charts.learning(made, summary.summarize(made)["groups"])["groups"][0]["frames"] == [100, 300]


def test_evaluations_repeated_after_a_gap_count_once(tmp_path):
    run = write_run(tmp_path, CURVE)
    write_rows(run, [*rows_of(run), evaluation(300, 7.0)])
    assert read_runs.read(run).evaluations[300] == 7.0
