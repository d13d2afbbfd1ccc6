"""Reports as numbers: reading run folders, grouping, published returns, the command; folders from strangers."""

import json
import math
import shlex
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from run_folders import episode, evaluation, row, rows_of, write_rows, write_run, write_seeds
from safetensors.numpy import load_file
from sealing import reseal, said

import t3d
from t3d.cli.main import run
from t3d.config import Config
from t3d.errors import RunRefused
from t3d.reports import grouping, published, read_runs, summary, wording, write_report
from t3d.runs import run_folder


def report(capsys, *paths):
    """Return what `t3d report --json` prints, held to be one JSON object and nothing else."""
    assert run(["report", *map(str, paths), "--json"]) == 0
    out = capsys.readouterr().out
    answer = json.loads(out, parse_constant=pytest.fail)
    assert out == json.dumps(answer) + "\n"
    return answer


def group(*paths):
    (only,) = summary.summarize(grouping.group_runs(read_runs.find(paths)))["groups"]
    return only


def test_a_real_run_is_read_as_it_is(tmp_path, capsys):
    options = {"hidden": (8, 8), "batch_size": 16, "random_steps": 200, "eval_episodes": 2, "threads": 1}
    made = t3d.train("Pendulum-v1", steps=430, eval_every=150, video=False, out=tmp_path / "run", **options)
    seen = read_runs.read(made.path)
    info = run_folder.read_config(made.path)
    config = asdict(info.config)
    config |= config.pop("td3")
    assert seen.options == json.loads(json.dumps(config))
    assert (seen.env, seen.preset, seen.seed, seen.finished) == (info.env, info.preset, 0, True)
    assert seen.evaluations[430] == made.last.return_mean
    assert list(seen.evaluations) == [150, 300, 430]
    assert len(seen.random_returns) == 1
    (only,) = report(capsys, made.path)["groups"]
    assert only["scores"]["final"]["mean"] == {"value": made.last.return_mean, "low": None, "high": None}
    assert only["runs"][0]["best"] == made.best.return_mean
    assert only["runs"][0]["best_env_steps"] == made.best_env_steps
    assert write_report([made.path]) == made.path / "report.html"
    # The command repeats the run: the command line makes the same configuration of it.
    said = shlex.split(wording.command([seen]))
    assert said[:2] == ["t3d", "train"]
    again = tmp_path / "again"
    assert run([*said[1:], "--out", str(again), "--no-video"]) == 0
    for name in ("best", "last"):
        one, other = (load_file(folder / "policy" / f"{name}.safetensors") for folder in (made.path, again))
        assert {k: v.tobytes() for k, v in one.items()} == {k: v.tobytes() for k, v in other.items()}


def test_numbers_of_five_seeds(tmp_path):
    finals = [912.0, 1500.0, 2400.0, 3100.0, 3547.0]
    seen = group(write_seeds(tmp_path / "td3-n5", finals))
    assert [one["seed"] for one in seen["runs"]] == [0, 1, 2, 3, 4]
    assert [one["final"] for one in seen["runs"]] == finals
    assert seen["env_steps"] == [100, 200, 300]
    assert seen["curve"]["mean"]["value"] == pytest.approx([0, np.mean(finals) / 2, np.mean(finals)])
    assert seen["scores"]["final"]["mean"]["value"] == pytest.approx(np.mean(finals))
    assert seen["scores"]["final"]["iqm"]["value"] == pytest.approx(np.mean(finals[1:4]))
    assert seen["scores"]["area"]["mean"]["value"] == pytest.approx(np.mean(finals) / 2)  # straight lines from 0
    assert seen["scores"]["best"]["mean"]["value"] == pytest.approx(np.mean(finals))
    assert seen["notes"] == []


@pytest.mark.parametrize("count", [1, 2, 4])
def test_below_five_seeds_no_interquartile_mean(tmp_path, count):
    seen = group(write_seeds(tmp_path, [float(n) for n in range(count)]))
    assert seen["curve"]["iqm"] is None
    assert {entry["iqm"] for entry in seen["scores"].values()} == {None}
    assert (seen["scores"]["final"]["mean"]["low"] is None) == (count == 1)


def test_best_is_over_time_and_final_is_not(tmp_path):
    seen = group(write_run(tmp_path / "a", {100: 5.0, 200: 9.0, 300: 9.0, 400: 1.0}))
    (only,) = seen["runs"]
    assert (only["final"], only["best"], only["best_env_steps"]) == (1, 9, 200)


def test_learning_is_measured_against_what_took_none(tmp_path):
    extra = [episode(50, -280.0)]
    extra.append(episode(250, 999.0))
    for seed, final in enumerate([10.0, 20.0, 30.0]):
        write_run(tmp_path / f"s{seed}", {100: -1.0, 300: final}, seed=seed, random_steps=100, extra=extra)
    seen = group(tmp_path)
    assert seen["baseline"]["what"] == "the untrained policy"  # better than random actions' -280
    assert seen["baseline"]["gain"]["value"] == pytest.approx(21)
    assert wording.learned(seen)[0] == "It is not clear that it learned."  # 21 ± 24.8, by hand: 4.303 * 10 / sqrt(3)
    assert seen["baseline"]["gain"]["low"] == pytest.approx(21 - 4.302653 * 10 / 3**0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("finals", "says"),
    [
        ([200.0, 210.0, 220.0], "It learned."),
        ([-200.0, -210.0, -220.0], "It did worse than random actions."),
        ([-200.0, 10.0, 210.0], "It is not clear that it learned."),
        ([200.0], "One seed did better than random actions."),
        ([-200.0], "One seed did no better than random actions."),
    ],
)
def test_whether_it_learned_is_said(tmp_path, finals, says):
    for seed, final in enumerate(finals):
        extra = [episode(50, float(seed))]
        write_run(tmp_path / f"s{seed}", {300: final}, seed=seed, random_steps=100, extra=extra)
    assert wording.learned(group(tmp_path))[0] == says


def test_runs_are_grouped_by_what_differs_but_the_seed(tmp_path):
    write_seeds(tmp_path / "a", [1.0, 2.0])
    write_seeds(tmp_path / "b", [3.0, 4.0], lr=0.001)
    write_seeds(tmp_path / "c", [5.0, 6.0], preset="small")
    write_seeds(tmp_path / "d", [7.0, 8.0], env="Ant-v5")
    made = grouping.group_runs(read_runs.find([tmp_path / name for name in "abcd"]))
    assert [(one.env, one.label) for one in made] == [
        ("HalfCheetah-v5", "td3, lr 0.0003"),
        ("HalfCheetah-v5", "td3, lr 0.001"),
        ("HalfCheetah-v5", "small"),
        ("Ant-v5", "td3"),
    ]
    assert [one.differing for one in made] == [{"lr": 0.0003}, {"lr": 0.001}, {}, {}]
    assert [one.returns[:, -1].tolist() for one in made] == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_options_that_change_no_number_set_nothing_apart(tmp_path):
    write_run(tmp_path / "s0", {100: 1.0}, seed=0, env_workers=0, checkpoint_seconds=60)
    write_run(tmp_path / "s1", {100: 1.0}, seed=1, env_workers=2, checkpoint_seconds=10)
    assert [one.label for one in grouping.group_runs(read_runs.find([tmp_path]))] == ["td3"]


def test_equal_options_in_two_parents_are_two_groups(tmp_path):
    write_seeds(tmp_path / "with", [1.0, 2.0])
    write_seeds(tmp_path / "without", [3.0, 4.0])
    made = grouping.group_runs(read_runs.find([tmp_path / "with", tmp_path / "without"]))
    assert [one.label for one in made] == ["td3 (with)", "td3 (without)"]


def test_one_seed_twice_is_refused(tmp_path):
    for name in ("s0", "s0-2"):
        write_run(tmp_path / name, {100: 1.0})
    with pytest.raises(RunRefused, match="the same seed"):
        grouping.group_runs(read_runs.find([tmp_path]))
    assert len(read_runs.find([tmp_path / "s0", tmp_path / "s0", tmp_path / "." / "s0"])) == 1


def test_children_stand_in_the_order_of_their_numbers(tmp_path):
    for seed in (10, 9, 2):
        write_run(tmp_path / f"s{seed}", {100: 1.0}, seed=seed)
    (tmp_path / "notes").mkdir()
    assert [one.seed for one in read_runs.find([tmp_path])] == [2, 9, 10]


def test_a_run_that_stopped_early_is_kept_and_told(tmp_path):
    write_run(tmp_path / "s0", {100: 1.0, 200: 2.0, 300: 3.0}, seed=0)
    write_run(tmp_path / "s1", {100: 5.0, 200: 6.0}, seed=1, steps=300)
    write_run(tmp_path / "s2", {}, seed=2, steps=300)
    seen = group(tmp_path)
    assert seen["env_steps"] == [100, 200]
    assert [(one["seed"], one["final"], one["finished"]) for one in seen["runs"]] == [(0, 2, True), (1, 6, False)]
    assert any("seed 1 at 200" in note for note in seen["notes"])
    assert any("Seed 2 has no evaluation yet" in note for note in seen["notes"])


def test_comparing_says_welch_and_improvement(tmp_path, capsys):
    write_seeds(tmp_path / "a", [100.0, 110, 120, 130, 140])
    write_seeds(tmp_path / "b", [10.0, 20, 30, 40, 50], lr=0.001)
    (seen,) = report(capsys, tmp_path / "a", tmp_path / "b")["comparisons"]
    assert (seen["first"], seen["second"]) == ("td3, lr 0.0003", "td3, lr 0.001")
    assert (seen["mean"]["value"], seen["improvement"]["value"], seen["called"]) == (90, 1, True)
    assert seen["mean"]["low"] == pytest.approx(90 - 2.306004 * 10, rel=1e-6)  # t(8; 0.975), by hand: se 10
    assert seen["seeds"] == [5, 5]


def test_comparing_few_seeds_calls_nothing(tmp_path, capsys):
    write_seeds(tmp_path / "a", [100.0, 110, 120])
    write_seeds(tmp_path / "b", [10.0, 20, 30], lr=0.001)
    (seen,) = report(capsys, tmp_path / "a", tmp_path / "b")["comparisons"]
    assert not seen["called"]
    assert "too few" in seen["verdict"]
    assert seen["seeds_needed"] == 5


def test_two_environments_are_compared_apart_and_pooled(tmp_path, capsys):
    for env, top in (("Ant-v5", 100.0), ("Hopper-v5", 0.0)):
        write_seeds(tmp_path / env / "a", [top + i for i in range(5)], env=env)
        write_seeds(tmp_path / env / "b", [50.0 + i for i in range(5)], env=env, lr=0.001)
    paths = [tmp_path / env / name for env in ("Ant-v5", "Hopper-v5") for name in "ab"]
    ant, hopper, pooled = report(capsys, *paths)["comparisons"]
    assert (ant["improvement"]["value"], hopper["improvement"]["value"]) == (1, 0)
    assert pooled["envs"] == ["Ant-v5", "Hopper-v5"]
    assert pooled["improvement"]["value"] == 0.5


def test_published_returns_are_found_by_family_and_warn_of_versions():
    found = published.find("my_module:HalfCheetah-v5")
    assert {one.env for one in found} == {"HalfCheetah-v1", "HalfCheetah-v3", "HalfCheetah-v4"}
    assert all("not in HalfCheetah-v5" in one.warning for one in found)
    curve = found[0]
    assert curve.points[:2] == ((25_000, 1327.0, 388.0), (50_000, 3352.0, 851.0))
    assert published.at(curve, 50_000) == 3352
    assert published.at(curve, 37_500) == (1327 + 3352) / 2
    assert (published.at(curve, 24_999), published.at(curve, 1_000_001)) == (None, None)
    assert published.find("AntBulletEnv-v0")[0].warning == ""
    assert published.find("Own-v0") == []
    assert all(one.source and one.statistic and one.seeds for one in published.find("Ant-v5"))


def broken(folder, text):
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text() + text)
    return folder


def test_a_half_written_last_line_is_left_out_and_told(tmp_path):
    seen = group(broken(write_run(tmp_path, {100: 1.0}), '{"kind": "evaluation", "env_st'))
    assert seen["env_steps"] == [100]
    assert seen["notes"] == ["Seed 0: The last line of metrics.jsonl, line 3, is half written and left out."]


# Each with a true checksum, but the last ones, which have none.
BAD = [
    {"kind": 3},
    {"env_steps": -1},
    {"env_steps": 1.5},
    {"env_steps": True},
    {"env_steps": 2**53},
    {"wall_s": None},
    {"wall_s": -1.0},
    {"kind": "weather"},
    {"kind": "run", "run": "0" * 64},
    {"kind": "evaluation"},
    {"kind": "evaluation", "returns": [], "lengths": [], "return_std": 0.0, "return_mean": "<b>"},
    {"kind": "episode", "length": 1, "return": None, "env": 0, "end": "truncated"},
    {"kind": "episode", "length": 1, "return": 1.0, "env": 0, "end": "eaten"},
    {"kind": "health", "of": "the weather"},
    {"kind": "event", "what": 3},
    {"kind": "event", "what": "x", "lost": [1]},
    {"kind": "event", "what": "x", "no name": 1},
    {"kind": "event", "what": "x", "deep": [[1]]},
    {"kind": "event", "what": "x", "long": 10**400},
    b"{",
    b"[]",
    b"",
    b'{"kind": "event", "env_steps": 1, "wall_s": 1.0, "what": "no checksum"}',
    b"[" * 100_000,
    b"\xff",
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_what_no_run_writes_is_left_out_with_all_behind_it_and_the_page_says_so(tmp_path, capsys, bad):
    write_run(tmp_path, {100: 1.0, 200: 2.0})
    (tmp_path / "checkpoints" / "0" / "manifest.json").unlink()
    rows = rows_of(tmp_path)
    if isinstance(bad, dict):
        write_rows(tmp_path, [*rows, row("event", 1) | bad, evaluation(300, 3.0)])
    else:
        content = (tmp_path / "metrics.jsonl").read_bytes()
        write_rows(tmp_path, [*rows, evaluation(300, 3.0)])
        behind = (tmp_path / "metrics.jsonl").read_bytes()[len(content) :]
        (tmp_path / "metrics.jsonl").write_bytes(content + bad + b"\n" + behind)
    (only,) = report(capsys, tmp_path)["groups"]
    assert only["env_steps"] == [100, 200]
    assert only["notes"][0].startswith("Seed 0: metrics.jsonl is damaged: its lines from 4 on are left out (")
    assert len(only["notes"][0]) < 200
    assert texts_of(write_report([tmp_path])).count("its lines from 4 on are left out") == 1


def texts_of(page):
    return page.read_text().partition("</style>")[2].partition("<script")[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"env": 1},
        {"preset": None},
        {"config": []},
        {"config": {"seed": "0", "steps": 1, "td3": {}}},
        {"config": {"seed": 0, "steps": True, "td3": {}}},
        {"config": {"seed": 0, "steps": -1, "td3": {}}},
        {"config": {"seed": 0, "steps": 1, "td3": 3}},
        {"config": {"seed": 0, "steps": 1, "td3": {}, "random_steps": "many"}},
        {"config": {"seed": 0, "steps": 1}},
    ],
    ids=str,
)
def test_a_config_that_is_none_is_refused(tmp_path, changes):
    reseal(write_run(tmp_path, {100: 1.0}) / "config.json", **changes)
    with pytest.raises(RunRefused, match=r"config\.json cannot be read"):
        read_runs.find([tmp_path])


def test_a_changed_config_is_refused(tmp_path):
    path = write_run(tmp_path, {100: 1.0}) / "config.json"
    path.write_text(path.read_text().replace("0.0003", "0.0004"))
    with pytest.raises(RunRefused, match="not as it was written"):
        read_runs.find([tmp_path])


def test_a_config_with_numbers_that_are_none_is_refused(tmp_path):
    path = write_run(tmp_path, {100: 1.0}) / "config.json"
    config = said(path)["config"]
    config["td3"]["lr"] = math.nan
    reseal(path, config=config)
    with pytest.raises(RunRefused, match=r"config\.json cannot be read"):
        read_runs.find([tmp_path])


def test_nothing_to_report_is_refused(tmp_path, capsys):
    assert run(["report"]) == 2
    assert run(["report", str(tmp_path)]) == 2
    assert "there is no run here" in capsys.readouterr().err
    write_run(tmp_path / "a", {}, steps=100)
    assert run(["report", str(tmp_path / "a")]) == 2
    assert "nothing to report yet" in capsys.readouterr().err
    (tmp_path / "a" / "metrics.jsonl").unlink()
    assert run(["report", str(tmp_path / "a")]) == 2


def test_the_page_goes_where_it_is_asked_to(tmp_path, capsys):
    parent = write_seeds(tmp_path / "td3-n2", [1.0, 2.0])
    assert run(["report", str(parent)]) == 0
    assert capsys.readouterr().out == f"{parent / 'report.html'}\n"
    assert run(["report", str(parent), "--out", str(tmp_path / "x" / "page.html")]) == 0
    assert (tmp_path / "x" / "page.html").read_text() == (parent / "report.html").read_text()
    assert sorted(path.name for path in parent.iterdir()) == ["report.html", "s0", "s1"]


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert run(["report", str(write_run(tmp_path / "a", {100: 1.0})), "--out", str(file / "page.html")]) == 2
    assert "page.html cannot be written" in capsys.readouterr().err


def test_a_command_from_a_strangers_folder_is_quoted(tmp_path):
    hostile = write_run(tmp_path / "a", {100: 1.0}, env="x; rm -rf ~ $(id)", preset="`id`")
    words = shlex.split(wording.command([read_runs.read(hostile)]))
    assert words[:3] == ["t3d", "train", "x; rm -rf ~ $(id)"]
    assert "$(id)" not in words
    for name in ("--out=/etc", "a\nb", "a\x1b[31m"):
        assert wording.command([read_runs.read(write_run(tmp_path / "b", {100: 1.0}, env=name))]) == ""


def test_a_command_names_what_the_preset_does_not(tmp_path):
    options = {name: value for name, value in vars(Config()).items() if name not in ("td3", "seed")}
    changed = {**options, "steps": 300, "fresh_envs": True, "random_steps": 0}
    seen = read_runs.read(write_run(tmp_path, {100: 1.0}, hidden=(8, 9), seed=7, **changed))
    line = wording.command([seen])
    for part in ("--preset td3", "--steps 300", "--fresh-envs", "--hidden 8 9", "--engine eager", "--threads 1"):
        assert part in line
    assert line.endswith("--seed 7")
    for part in ("--lr", "--gamma", "--batch-size", "--threads auto"):
        assert part not in line


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-0.0, "0"), (1234.5, "1,234"), (-1234.5, wording.MINUS + "1,234"), (99.96, "100"), (12.34, "12.3"),
     (0.01234, "0.0123"), (-0.5, wording.MINUS + "0.5"), (1e-9, "1e-09"), (None, "\N{EN DASH}")],
)  # fmt: skip
def test_numbers_are_written_for_people(value, text):
    assert wording.number(value) == text


def test_reports_import_neither_training_nor_torch():
    code = (
        "import sys; from t3d.reports import write_report; import t3d.cli.report; light = set(sys.modules);"
        "import t3d.reports.page; print(*{'scipy', 'numpy', 'jinja2'} & light, *{'torch', 'gymnasium', 'numba',"
        " 't3d.runs', 't3d.training.trainer'} & set(sys.modules))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.split() == []
