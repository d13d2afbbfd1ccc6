"""The report's page in a real browser: curves, legend, video; nothing hostile runs, no request leaves it."""

import json
from pathlib import Path

import pytest
from chromium import CHROMIUM, Page
from film_here import films_here
from msgspec import structs
from run_folders import MACHINE, episode, row, write_run, write_seeds

import t3d
from t3d import api
from t3d.diagnosis import hints
from t3d.env_spec import EnvSpec
from t3d.errors import RunRefused
from t3d.reports import charts, read_runs, write_report

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make install")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian: apt-get install chromium")

SMALL = {"hidden": (8, 8), "batch_size": 16, "random_steps": 200, "eval_episodes": 2, "threads": 1}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """Return what opens a report, and closes it afterwards."""
    pages = []

    def open_page(file, **options):
        pages.append(Page(browser, file, **options))
        return pages[-1]

    yield open_page
    for page in pages:
        page.page.close()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Two short real runs in one parent, the first with a video."""
    parent = tmp_path_factory.mktemp("runs") / "pendulum-n2"
    with films_here():
        for seed in range(2):
            options = {"steps": 430, "eval_every": 100, "log_every": 50, "seed": seed, "out": parent / f"s{seed}"}
            t3d.train("Pendulum-v1", video=seed == 0, video_frames=40, **SMALL, **options)
    return parent


@pytest.fixture(scope="module")
def page(browser, seeds):
    """Their report, opened once for all tests that leave it as it was."""
    page = Page(browser, write_report([seeds]))
    yield page
    page.page.close()


def test_it_is_quiet_and_asks_for_nothing(page):
    assert page.is_quiet()
    assert page.asked[0] == page.file.as_uri()


def test_points_of_the_curves_are_those_of_metrics_jsonl(page, seeds):
    found = page.lines()
    means = []
    for seed in range(2):
        rows = [json.loads(line) for line in (seeds / f"s{seed}" / "metrics.jsonl").read_text().splitlines()]
        recorded = [(one["env_steps"], one["return_mean"]) for one in rows if one["kind"] == "evaluation"]
        assert len(recorded) == 5
        assert found[f"seed {seed}"][0] == recorded
        means.append([value for _, value in recorded])
        losses = [(one["env_steps"], one["critic_loss"]) for one in rows if one["kind"] == "update"]
        titles = page.run("[...document.querySelectorAll('canvas[id^=training]')].map(e => e.ariaLabel)")
        drawn = page.lines(f"training-0-{titles.index('critic loss over env steps')}")[f"seed {seed}"][0]
        assert drawn == [(step, pytest.approx(loss, rel=1e-4)) for step, loss in losses]
    assert [y for _, y in found["mean"][0]] == pytest.approx([sum(pair) / 2 for pair in zip(*means, strict=True)])


def test_the_video_plays(page):
    pytest.importorskip("av", reason="the extra `video` is not installed")
    page.until("document.querySelector('video').currentTime > 0.2")
    assert page.run("document.querySelector('video').error") is None


@pytest.mark.slow
def test_both_policies_of_a_run_play(opened, tmp_path):
    pytest.importorskip("av", reason="the extra `video` is not installed")
    # All evaluations are equal, so the best policy is the first one and not the last.
    env = f"{Path(__file__).with_name('ill_envs.py')}:SameReward"
    with films_here():
        run = t3d.train(env, steps=240, eval_every=120, out=tmp_path / "run", **SMALL | {"random_steps": 100})
        assert run.report.read_text("utf-8").count("<video") == 2 + 4  # the two policies; and how it learned
        api.film_run(run.path, "last", frames=12, env=EnvSpec(env))  # shorter, to tell them apart
    page = opened(write_report([run.path]))
    for which, step, frames in (("best", 120, 21), ("last", 240, 12)):
        page.page.get_by_role("button", name=f"{which} policy").click()
        shown = "[...document.querySelectorAll('.clip video')].filter(video => video.offsetParent)"
        assert page.run(f"{shown}.length") == 1
        page.until(f"{shown}[0].currentTime > 0.2")
        assert page.run(f"{shown}[0].error") is None
        assert page.run(f"{shown}[0].duration") == pytest.approx(frames / 30, abs=0.02)
        assert page.page.locator(".clip figcaption:visible").inner_text() == (
            f"Seed 0: its {which} policy, after {step} steps"
        )
    said = page.page.locator(".stages figcaption").all_inner_texts()
    steps = ["0 steps, untrained", "60 steps, untrained", "120 steps, return 10.0", "240 steps, return 10.0"]
    assert [text.splitlines()[1] for text in said] == steps
    page.until("[...document.querySelectorAll('.stages video')].every(video => video.currentTime > 0.2)")
    assert page.run("document.querySelector('.stages .last').duration") == pytest.approx(12 / 30, abs=0.02)
    assert page.is_quiet()


def test_a_click_on_the_legend_hides_and_shows(page):
    button = page.page.get_by_role("button", name="each seed")
    for pressed in ("false", "true"):
        button.click()
        assert button.get_attribute("aria-pressed") == pressed
        assert {page.lines()[f"seed {seed}"][1] for seed in range(2)} == {pressed == "false"}
    assert not page.lines()["mean"][1]


def check_pointing_reads_a_value(page, point):
    place = page.run(
        "(() => { const chart = Chart.getChart('learning-0'), box = chart.canvas.getBoundingClientRect();"
        " return [box.left + chart.scales.x.getPixelForValue(300), box.top + 100]; })()"
    )
    point(*place)
    page.until("Chart.getChart('learning-0').tooltip.opacity > 0")
    title, body = page.run("(t => [t.title[0], t.body.map(b => b.lines[0])])(Chart.getChart('learning-0').tooltip)")
    assert title == "300 env steps"
    assert [line.partition(":")[0] for line in body] == ["mean", "seed 0", "seed 1"]
    assert " to " in body[0]
    value = dict(page.lines()["seed 0"][0])[300]
    said = float(body[1].partition(": ")[2].replace("\N{MINUS SIGN}", "-").replace(",", ""))
    assert said == pytest.approx(value, rel=1e-4)


def test_pointing_at_the_curve_reads_a_value(page):
    check_pointing_reads_a_value(page, page.page.mouse.move)


@pytest.mark.slow
def test_touching_the_curve_reads_a_value(opened, page):
    touched = opened(page.file, has_touch=True)
    check_pointing_reads_a_value(touched, touched.page.touchscreen.tap)


@pytest.mark.slow
def test_nothing_is_wider_than_the_screen(opened, tmp_path):
    parent = write_seeds(tmp_path / "td3-n5", [912.0, 1500.0, 2400.0, 3100.0, 3547.0], env="A" * 60 + "-v5")
    page = opened(write_report([parent]))
    for width in (360, 390, 768, 1280, 1920):
        page.page.set_viewport_size({"width": width, "height": 800})
        page.page.reload()
        assert page.run("document.documentElement.scrollWidth") == width
        assert page.run("document.querySelector('canvas').clientWidth") > 0.5 * min(width, 1200), width


@pytest.mark.slow
def test_dark_and_light_follow_the_system(page):
    look = (
        "[getComputedStyle(document.documentElement).backgroundColor,"
        " Chart.getChart('learning-0').options.scales.x.ticks.color]"
    )
    seen = []
    for scheme in ("light", "dark", "light"):
        page.page.emulate_media(color_scheme=scheme)
        page.page.wait_for_timeout(100)
        seen.append(page.run(look))
    light, dark, again = seen
    assert light == again
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    assert page.is_quiet()


@pytest.mark.slow
def test_published_curves_are_drawn_where_they_overlap(opened, tmp_path):
    parent = write_seeds(tmp_path / "a", [1.0, 2.0])
    for seed in range(2):
        write_run(parent / f"s{seed}", {25_000: 0.0, 75_000: 9.0}, seed=seed)
    page = opened(write_report([parent]))
    found = page.lines()
    # By hand: 3352 at 50,000 and 5514 at 100,000, so 4433 half way.
    curve, off = found["Fujimoto et al. 2018, authors' published learning curves"]
    assert curve == [(25_000, 1327), (50_000, 3352), (75_000, 4433)]
    assert not off
    level, off = found["Fujimoto et al. 2018, Table 1"]
    assert (level, off) == ([(0, 9636.95), (75_000, 9636.95)], True)
    entry = page.page.locator("#published-0 button", has_text="Table 1").first
    for part in ("HalfCheetah-v1", "9,637 after 1,000,000 steps", "maximum over time of the mean of 10 seeds"):
        assert part in entry.inner_text()
    warning = page.page.locator("p.warning").inner_text()
    assert "HalfCheetah-v1" in warning
    assert "not in HalfCheetah-v5" in warning


@pytest.mark.slow
def test_health_is_drawn_where_it_was_recorded(opened, tmp_path):
    bare = opened(write_report([write_run(tmp_path / "a", {100: 1.0, 200: 2.0})]))
    assert bare.page.locator("summary", has_text="its health").count() == 0
    assert bare.page.locator(".answer.unknown", has_text="Too early to say.").count() == 4
    rows = [row("health", step, of="batch", dead_units=step / 100, told="text", none=None) for step in (100, 200)]
    page = opened(write_report([write_run(tmp_path / "b", {100: 1.0, 200: 2.0}, extra=rows)]))
    assert page.page.locator("summary", has_text="its health").count() == 1
    assert page.lines("health-0-0") == {"seed 0": ([(100, 1), (200, 2)], False)}
    assert page.page.locator("canvas[id^=health]").count() == 1
    assert page.page.locator(".answer", has_text="not what this version of t3d writes").count() == 4
    assert page.is_quiet()


@pytest.mark.slow
def test_what_is_wrong_is_said(opened, tmp_path, monkeypatch):
    rows = [row("health", step, of="batch", reward_std=0.0) for step in (100, 200)]
    run = write_run(tmp_path, {100: 1.0, 200: 2.0}, extra=rows)
    monkeypatch.setattr(hints, "hints", lambda seen: [])
    assert opened(write_report([run])).page.locator("ul.hints").count() == 0
    hint = hints.Hint("a name", 100, "evidence <b>", "cure")
    monkeypatch.setattr(hints, "hints", lambda seen: [hint] if seen == read_runs.read(run).rows["health"] else [])
    assert opened(write_report([run])).page.locator("ul.hints").inner_text() == "Seed 0: evidence <b>; cure."


ATTACK = "</script></style></title><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}'\"\u2028<!--<script>"


def test_nothing_in_a_strangers_folder_runs(opened, tmp_path):
    events = [row("event", 50, what=ATTACK), row("health", 60, of="batch", loud=1.0)]
    machine = structs.replace(MACHINE, processor=ATTACK, versions={ATTACK: ATTACK})
    write_run(tmp_path / "a", {100: 1.0, 200: 2.0}, env=ATTACK, preset=ATTACK, extra=events, machine=machine)
    write_run(tmp_path / "b", {100: 1.0, 200: 2.0}, env=ATTACK, preset=ATTACK, lr=0.5)
    page = opened(write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html"))
    assert page.is_quiet()
    assert page.run("[document.images.length, document.scripts.length]") == [0, 3]
    assert page.run("document.querySelector('h1').textContent") == ATTACK
    assert page.page.locator("ul.notes:not(.hints)").inner_text().count("alert(1)") == 1
    assert next(iter(page.lines("health-0-0").values()))[0] == [(60, 1)]


def test_even_what_slipped_through_would_not_run(opened, tmp_path):
    file = write_report([write_run(tmp_path, {100: 1.0})])
    inserted = (
        '<script>document.title="taken"</script><img src=x onerror=alert(1)><a id=a href="javascript:alert(2)">x</a>'
    )
    file.write_text(file.read_text("utf-8").replace("<main>", "<main>" + inserted), "utf-8")
    page = opened(file)
    page.page.locator("#a").click()
    page.page.wait_for_timeout(200)
    assert page.page.title().startswith("HalfCheetah-v5, TD3, preset td3 with ")
    assert all("Content Security Policy" in said for said in page.said)
    assert page.run("fetch('https://example.com').then(() => 'reached', () => 'refused')") == "refused"


def test_a_file_that_is_no_video_stays_out(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("the user's own words")
    run = write_run(tmp_path / "run", {100: 1.0})
    (run / "video").mkdir()
    film = run / "video" / "best.mp4"
    film.symlink_to(secret)
    with pytest.raises(RunRefused, match=rf"a link: {film}"):
        write_report([run])
    film.unlink()
    film.write_bytes(secret.read_bytes())
    text = write_report([run]).read_text("utf-8")
    assert "data:video" not in text
    assert "is not shown" in text


@pytest.mark.slow
def test_five_long_seeds_stay_under_3_mb(tmp_path):
    for seed in range(5):
        names = ("critic_loss", "actor_loss", "q1", "q2", "target_q")
        rows = [
            row("update", step, updates=step, **dict.fromkeys(names, step / 7)) for step in range(0, 1_000_000, 1_000)
        ]
        rows += [episode(step, step / 3) for step in range(0, 1_000_000, 1_000)]
        run = write_run(
            tmp_path / f"s{seed}", {step: step / 3 for step in range(5_000, 1_000_001, 5_000)}, seed=seed, extra=rows
        )
        (run / "video").mkdir()
        for which in ("best", "last"):
            (run / "video" / f"{which}.mp4").write_bytes(b"\0\0\0\x20ftyp" + b"\0" * 590_000)
    assert 1_500_000 < write_report([tmp_path]).stat().st_size < 3_000_000
    scripts = Path(charts.__file__).parent / "assets"
    assert sum((scripts / name).stat().st_size for name in ("chart.umd.min.js", "page.js")) < 1_300_000


def test_thinning_keeps_means_and_ends():
    points = [(float(x), float(x)) for x in range(1_001)]
    thin = charts.thinned(points, 4)
    assert len(thin) <= charts.MOST_POINTS
    assert thin[0] == (2, 1.5)  # the mean of 0, 1, 2, 3; a half rounds to the even step
    assert charts.thinned(points[:7], 1) == points[:7]
    assert charts.thinned([], 0) == []
