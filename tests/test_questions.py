"""The four questions of a report: a verdict and its evidence, from rows whose numbers are known."""

import csv
import io
import json
import re
from dataclasses import replace

import pytest
from chromium import CHROMIUM, Page
from run_folders import row, write_run, write_seeds

from t3d.cli.main import run
from t3d.diagnosis import hints
from t3d.diagnosis.questions import QUESTIONS, answers
from t3d.reports import page, read_runs, write_report

BATCH = {
    **dict.fromkeys(("obs_scale", "obs_scale_at", "obs_mean_max", "obs_std_max", "obs_std_min", "pre_tanh"), 1.0),
    **dict.fromkeys(("dead_actor", "dead_q1", "dead_q2", "terminated_share", "disagreement"), 0.04),
    **dict.fromkeys(("critic_gradient", "actor_gradient", "critic_move", "actor_move", "noise_clipped_share"), 0.1),
    "reward_mean": 1.0, "reward_std": 1.0, "reward_max": 1.0, "value_bound": 100.0, "saturated_share": 0.2,
    "q1_target_share": 0.45, "q_scale": 40.0, "replay_age": 50.0,
}  # fmt: skip
PLAYED = {"states": 9.0, "obtained": 30.0, "q1_bias": 3.0, "min_q_bias": -3.0, "q1_bias_ratio": 0.1}


def health(looks=3, ratio=-0.1, obtained=30.0, **batch):
    played = {**PLAYED, "obtained": obtained, "min_q_bias": ratio * obtained, "min_q_bias_ratio": ratio}
    return [
        made
        for step in range(100, 100 * looks + 1, 100)
        for made in (
            row("health", step, of="batch", **{**BATCH, **batch}),
            row("health", step, of="evaluation", **played),
        )
    ]


def test_a_run_that_is_well_is_told_so_with_its_numbers():
    found = answers(health())
    assert list(found) == [question.name for question in QUESTIONS]
    assert [answer.is_well for answer in found.values()] == [True] * 4
    assert [answer.verdict for answer in found.values()] == ["No.", "Yes.", "No.", "No."]
    assert "promise 27 where 30 is obtained, 10% too little" in found["promises"].evidence
    assert "4.0% of their size apart, and Q1 is the smaller in 45%" in found["twins"].evidence
    assert found["bounds"].evidence.startswith("20% of its actions")
    assert "at most 4% of a layer's units are dead" in found["networks"].evidence


@pytest.mark.parametrize(
    ("name", "changed", "verdict", "says"),
    [
        ("promises", {"ratio": 2.5}, "Yes.", "promise 105 where evaluations obtain 30"),
        ("promises", {"ratio": 1.5}, "Yes.", "150% too much"),
        ("promises", {"ratio": -3.0}, "Far too little.", "cannot be believed"),
        ("twins", {"disagreement": 0.3}, "Not well.", "30.0% of their size apart"),
        ("twins", {"q1_target_share": 0.97}, "One of them rules.", "97% of the targets"),
        ("bounds", {"saturated_share": 0.99}, "Yes.", "99% of actions at the bound since step 100; lower --lr"),
        ("networks", {"dead_q2": 0.95}, "Yes.", "95% of a hidden layer of q2"),
        ("networks", {"q_scale": 900.0}, "Yes.", "values have a size of 900"),
        ("networks", {"actor_gradient": 0.0}, "Yes.", "the actor stands still"),
    ],
)
def test_what_is_wrong_is_said_by_the_hints_thresholds(name, changed, verdict, says):
    found = answers(health(**changed))
    assert (found[name].is_well, found[name].verdict) == (False, verdict)
    assert says in found[name].evidence
    assert all(answer.is_well for other, answer in found.items() if other != name)


def test_the_limits_are_where_the_hints_have_them():
    for name, field, limit in (
        ("bounds", "saturated_share", hints.SATURATED_SHARE),
        ("networks", "dead_actor", hints.DEAD_SHARE),
        ("networks", "q_scale", hints.BEYOND_BOUND * 100.0),
        ("twins", "disagreement", hints.DISAGREEING),
    ):
        for factor, well in ((0.999, True), (1.001, False)):
            assert answers(health(**{field: limit * factor}))[name].is_well is well, (field, factor)
    for ratio, well in ((0.99, True), (1.01, False), (-0.99, True), (-1.01, False)):
        assert answers(health(ratio=ratio))["promises"].is_well is well


def test_a_verdict_that_cannot_be_given_says_why():
    assert {answer.verdict for answer in answers([]).values()} == {"Too early to say."}
    early = answers(health(looks=2))
    assert "a verdict takes 3 evaluations after the first update, here are 2" in early["promises"].evidence
    assert "a verdict takes 3 looks at a batch, here are 2" in early["networks"].evidence
    without = answers(health(disagreement=None, q1_target_share=None))["twins"]
    assert (without.is_well, without.verdict) == (None, "It cannot be said.")
    assert "there are not two critics" in without.evidence
    assert answers(health(saturated_share=None))["bounds"].is_well is None


def text_of(file):
    return " ".join(re.sub(r"<[^>]+>", " ", file.read_text("utf-8").partition("<script")[0]).split())


def test_of_several_seeds_the_worst_speaks(tmp_path):
    curve = {100: 1.0, 200: 2.0, 300: 3.0}
    for seed, share in enumerate((0.1, 0.99, 0.2)):
        write_run(tmp_path / f"s{seed}", curve, seed=seed, extra=health(saturated_share=share))
    said = text_of(write_report([tmp_path]))
    assert "Is the actor stuck at its bounds? Yes. So in 1 of 3 seeds. Seed 1: 99% of actions at the bound" in said
    assert "Do the twins agree? Yes. So in all 3 seeds. Seed 0, the worst: Q1 and Q2" in said


@pytest.mark.parametrize(
    ("algorithm", "says"),
    [
        ("td7", "These are the critics of the policy that learns"),
        ("mine.Own", "mine.Own is an algorithm of its own: what its values mean may be something else"),
    ],
)
def test_an_algorithm_of_another_kind_is_not_judged_without_a_word(tmp_path, monkeypatch, algorithm, says):
    made = read_runs.read(write_run(tmp_path, {300: 1.0}, extra=health()))
    other = replace(made, options=made.options | {"algorithm": algorithm})
    monkeypatch.setattr(page, "find", lambda paths: [other])
    assert text_of(write_report([tmp_path])).count(says) == 2


def test_the_title_says_preset_and_every_option_that_differs(tmp_path):
    parent = write_seeds(tmp_path / "a", [1.0, 2.0], layer_norm="critic", threads=2)
    file = write_report([parent])
    trained = "TD3, preset td3 with random_steps 0, hidden 8-8, layer_norm critic"
    assert f"<title>HalfCheetah-v5, {trained} · t3d</title>" in file.read_text("utf-8")
    assert f"HalfCheetah-v5 {trained} · 2 seeds · 300 env steps" in text_of(file)
    strange = write_run(tmp_path / "b", {100: 1.0}, preset="/etc/passwd.toml")
    assert "TD3, preset /etc/passwd.toml, which is none of t3d&#39;s" in write_report([strange]).read_text("utf-8")


def test_groups_are_named_in_their_order(tmp_path, capsys):
    write_seeds(tmp_path / "a", [1.0, 2.0])
    write_seeds(tmp_path / "b", [3.0, 4.0], lr=0.5)
    folders = [str(tmp_path / name) for name in "ab"]
    assert run(["report", *folders, "--label", "plain", "=fast", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert [group["label"] for group in numbers["groups"]] == ["plain", "=fast"]
    assert numbers["comparisons"][0]["second"] == "=fast"
    for names in (["plain"], ["one", "one"], ["a", "b", "c"]):
        assert run(["report", *folders, "--label", *names, "--json"]) == 2
        assert "expected: 2 names, for: td3, lr 0.0003; td3, lr 0.5" in capsys.readouterr().err


def test_the_curve_as_a_table(tmp_path, capsys):
    write_seeds(tmp_path / "a", [1.0, 3.0])
    write_run(tmp_path / "b", {100: 5.0}, lr=0.5)
    out = tmp_path / "curve.csv"
    command = ["report", str(tmp_path / "a"), str(tmp_path / "b"), "--label", "plain", "=1+1", "--csv", str(out)]
    assert run(command) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert not (tmp_path / "a" / "report.html").exists()
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [(one["group"], one["env_steps"], one["mean"]) for one in rows] == [
        ("plain", "100", "0.0"), ("plain", "200", "1.0"), ("plain", "300", "2.0"), ("'=1+1", "100", "5.0")
    ]  # fmt: skip
    assert (rows[3]["mean_low"], rows[0]["iqm"], rows[2]["seeds"]) == ("", "", "2")
    # Student's t of 1 and 3 by hand: 2 ± 12.706 · 1.4142 / 1.4142.
    assert float(rows[2]["mean_high"]) == pytest.approx(14.706, abs=1e-3)


def test_the_figure_is_one_column_wide_and_equal_runs_give_equal_bytes(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the extra `figures` is not installed")
    write_seeds(tmp_path / "a", [1.0, 3.0])
    write_seeds(tmp_path / "b", [2.0, 3.0], action_repeat=2)
    drawn = []
    for name in ("one", "two"):
        files = [str(tmp_path / f"{name}.{kind}") for kind in ("svg", "png")]
        command = ["report", str(tmp_path / "a"), str(tmp_path / "b"), "--label", "$x", "b"]
        assert run([*command, "--svg", files[0], "--png", files[1]]) == 0
        assert capsys.readouterr().out.split() == files
        drawn.append([(tmp_path / f"{name}.{kind}").read_bytes() for kind in ("svg", "png")])
    assert drawn[0] == drawn[1]
    svg, png = drawn[0]
    assert b"<!-- frames (env steps times the action repeat) -->" in svg
    assert re.search(rb'width="237\.6pt"', svg), "3.3 inches of 72 points"
    assert int.from_bytes(png[16:20], "big") == 990, "3.3 inches of 300 pixels"
    assert run(["report", str(tmp_path / "a"), "--png", str(tmp_path / "a")]) == 2
    assert "give --png a place that can be written to" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian: apt-get install chromium")
def test_charts_have_a_tint_a_tick_above_the_curve_and_uncut_ends(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make install")
    file = write_report([write_run(tmp_path, {100: 1.0, 200: 2.0, 300: 947.0}, extra=health(saturated_share=0.5))])
    with playwright.sync_playwright() as driver, driver.chromium.launch(executable_path=CHROMIUM) as browser:
        opened = Page(browser, file)
        assert opened.is_quiet()
        axis = "(a => [a.max, a.ticks.at(-1).value])(Chart.getChart('learning-0').scales.y)"
        top, tick = opened.run(axis)
        assert top == tick >= 947
        assert opened.run("Chart.getChart('learning-0').data.datasets.every(d => d.clip === 8)")
        assert opened.lines("questions-0-4") == {"seed 0": ([(100, 0.5), (200, 0.5), (300, 0.5)], False)}
        pixels = (
            "(c => { const y = c.scales.y, x = c.chartArea.right - 3, r = devicePixelRatio;"
            " const at = v => c.ctx.getImageData(x * r, (y.getPixelForValue(v)) * r, 1, 1).data[3];"
            " return [at(0.8) > 0, at(0.98) > 0]; })(Chart.getChart('questions-0-4'))"
        )
        assert opened.run(pixels) == [True, False], "tinted up to 0.95"
        opened.page.locator("summary", has_text="Every number of its health").click()
        opened.until("Chart.getChart('health-0-0').width > 100")
        opened.page.close()
