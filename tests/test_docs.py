"""The documentation says what the source says, and its links lead somewhere."""

import importlib.util
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
STEPS = (DOCS / "steps.md").read_text("utf-8")
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]

_spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
assert _spec is not None and _spec.loader is not None
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)


def sections() -> dict[int, str]:
    found = re.findall(r"^### Step (\d+): .+?\n(.*?)(?=^#{2,3} |\Z)", STEPS, re.DOTALL | re.MULTILINE)
    return {int(number): text for number, text in found}


def test_generated_pages_are_what_the_sources_make():
    for path, text in build.pages().items():
        assert path.read_text("utf-8") == text, f"{path.name} is stale: run make docs"


def test_steps_have_headings_in_order():
    assert list(sections()) == list(range(1, 16))


def test_each_step_has_reason_formula_and_code():
    for number, text in sections().items():
        for part in ("**Why.** ", "**Without it.** ", "**Formula.**"):
            assert text.count(part) == 1, (number, part)
        assert re.search(r"^```math\n.+?\n```$", text, re.DOTALL | re.MULTILINE), number
        assert f"<!-- code: Step {number}" in text
        assert f"```python\n# Step {number}: " in text


def test_figure_shows_each_step():
    figure = (DOCS / "figures" / "networks.svg").read_text("utf-8")
    badges = re.findall(r'<g class="badge[^"]*">.*>(\d+)</text></g>', figure)
    assert set(map(int, badges)) == set(range(1, 16))


def test_step_takes_its_lines_and_no_others():
    file, code = build.step(8)
    assert file == "td3.py"
    assert code.splitlines()[0].startswith("# Step 8:")
    assert code.splitlines()[1].startswith("next_q = torch.minimum(")
    assert len(code.splitlines()) == 2
    assert "def " not in build.step(9)[1]  # the last of its function


def test_definition_leaves_docstrings_out():
    file, code = build.definition("td3.polyak")
    assert file == "td3.py"
    assert code.startswith("@torch.no_grad()\ndef polyak(")
    assert '"""' not in code + build.definition("networks.Critic")[1]


def test_unknown_step_or_definition_is_an_error():
    for wanted in (lambda: build.step(16), lambda: build.definition("td3.nothing")):
        with pytest.raises(LookupError):
            wanted()


def test_stale_code_is_replaced():
    page = "a\n<!-- code: Step 8 -->\nold\n<!-- end -->\nb\n"
    assert "old" not in build.with_code(page)
    assert "next_q = torch.minimum(" in build.with_code(page)
    assert build.with_code(build.with_code(page)) == build.with_code(page)


def study(name, biases, **fields):
    """Return a study with two evaluations, whose seeds end with these biases of Q1."""
    runs = [
        {"final": 10.0 * seed, "promises": [[5_000, 1.0, None, 0.0], [10_000, 7.0 + seed, bias, bias - 1]]}
        for seed, bias in enumerate(biases)
    ]
    return {"study": name, "env": "Hopper-v5", "steps": 10_000, "options": {}, "runs": runs, **fields}


def test_promises_of_one_critic_stand_beside_those_of_two():
    two, one = study("two", [0, 1, 2]), study("one", [10, 14, 18], script=build.results.ONE_CRITIC)
    text = build.results._promises([one, two])
    assert "| two critics | 8.0 ± 1.0 | +1.0 ± 1.0 | +0.0 ± 1.0 |" in text
    assert "| one critic | 8.0 ± 1.0 | +14.0 ± 4.0 | +13.0 ± 4.0 |" in text
    assert "one critic less two: +13.0" in text
    arms = build.results._arms([one, two])
    assert {name: arm.env_steps.tolist() for name, arm in arms.items()} == {
        "two critics": [10_000],
        "one critic": [10_000],
    }
    assert build.results._promises([two]) == build.results._promises([one]) == ""
    for run in two["runs"]:
        run["promises"] = []
    assert build.results._promises([one, two]) == ""


def test_a_study_that_changes_something_is_compared_with_the_plain_one():
    plain, other = study("plain", [0] * 5), study("other", [0] * 5, options={"lr": "1"})
    script, elsewhere = study("script", [0] * 5, script="x.py"), study("else", [0] * 5, env="Ant-v5")
    longer = study("longer", [0] * 5, options={"lr": "1"}, steps=20_000)
    lines = build.results._compared([elsewhere, longer, other, plain, script]).splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:4]] == [["| other", "plain"], ["| script", "plain"]]
    assert "longer" not in "".join(lines)
    assert "50 % (" in lines[2]


def test_readme_says_what_t3d_reaches_with_the_threads_it_chooses():
    spec = importlib.util.spec_from_file_location("peers", ROOT / "benchmarks" / "peers.py")
    peers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peers)
    medians = {"t3d": {1: 300.0, 2: 400.0}, "stable-baselines3": {1: 50.0, 2: 40.0}}
    libraries = {
        name: {"threads": max(seen, key=seen.get), "steps_per_s": max(seen.values()), "median_by_threads": seen}
        for name, seen in medians.items()
    }
    libraries["rltools"] = {"skipped": "no compiler"}
    small = {"env": "Pendulum-v1", "hidden": [64, 64], "batch_size": 100, "libraries": libraries}
    large = {"env": "HalfCheetah-v5", "hidden": [256, 256], "batch_size": 256, "libraries": libraries}
    result = {"machine": {"cores": 2}, "jobs": {"large": large, "small": small}}
    wanted = "t3d reaches 400 on HalfCheetah-v5 (2 threads) and 300 on Pendulum-v1 (1 thread: 6.00x Stable-Baselines3)."
    assert peers.by_default(result).endswith(wanted)
    assert peers.by_default(json.loads(json.dumps(result))).endswith(wanted)
    result["machine"]["cores"] = 1
    assert "300 on HalfCheetah-v5 (1 thread: 6.00x" in peers.by_default(result)
    del libraries["t3d"]["median_by_threads"][1]
    result["machine"]["cores"] = 2
    assert peers.by_default(result).endswith("t3d reaches 400 on HalfCheetah-v5 (2 threads).")


def test_check_says_whether_something_differs(tmp_path, monkeypatch):
    docs = tmp_path / "docs"
    docs.mkdir()
    for file in (*DOCS.glob("*.py"), ROOT / "README.md", *DOCS.glob("*.md")):
        (tmp_path / file.relative_to(ROOT)).write_text(file.read_text("utf-8"), "utf-8")
    for folder in ("src", "benchmarks", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    page = docs / "steps.md"
    page.write_text(STEPS.replace("torch.minimum", "torch.maximum"), "utf-8")
    for name in ("results", "performance"):  # the copies are meant: they write where they stand
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(docs), *sys.path])
    copy = runpy.run_path(str(docs / "build.py"))
    assert Path(copy["results"].__file__).parent == docs

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["build.py", *arguments])
        return copy["main"]()

    assert main("--check") == 1
    assert "torch.maximum" in page.read_text("utf-8")
    assert main() == 0
    assert page.read_text("utf-8") == STEPS
    assert [path.name for path in (docs / "figures").glob("*.svg")]
    assert main("--check") == 0


def test_links_lead_to_files():
    missing = []
    for page in PAGES:
        text = page.read_text("utf-8")
        links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
        local = [link for link in links if not re.match(r"https?://|mailto:", link)]
        missing += [(page.name, link) for link in local if not (page.parent / link.split("#")[0]).exists()]
    assert not missing


def test_the_score_says_of_how_many_robots_it_is_and_when_it_was_1():
    scores = runpy.run_path(str(DOCS / "scores.py"))
    studies = []
    for env, robot in scores["ROBOTS"].items():
        half = (robot.random + robot.td3) / 2
        run = {"engine": {"threads": 2}, "curve": [[100_000, half], [200_000, robot.td3]], "curve_wall_s": [600, 1_200]}
        studies.append({"study": f"fast-{env.lower()}", "env": env, "runs": [run]})
    whole = scores["section"](studies)
    assert re.search(r"fast, 100,000 \|.* 0\.50 \|", whole) and re.search(r"fast, 200,000 \|.* 1\.00 \|", whole)
    assert "first was 1 at some 200,000 env steps, 20 to 20 minutes" in whole
    part = scores["section"](studies[:2])
    assert re.search(r"fast, 200,000 \|.* 1\.00 of 2 \|", part) and "first was" not in part
    assert scores["section"]([]) == ""
