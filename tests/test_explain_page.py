"""The page of `t3d explain` in a real browser: transitions are followed, a film has its cursor, all by keyboard."""

import base64
import re

import numpy as np
import pytest
from chromium import CHROMIUM, Page
from film_here import films_here

import t3d
from t3d import api
from t3d.reports.explain import render
from t3d.runs import explanation

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make install")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian: apt-get install chromium")

SMALL = {"hidden": (8, 8), "batch_size": 16, "random_steps": 200, "eval_episodes": 1, "threads": 1, "engine": "eager"}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """A short run in the pendulum, and what is shown of it, with a film of 21 frames."""
    folder = tmp_path_factory.mktemp("explained") / "run"
    t3d.train("Pendulum-v1", out=folder, steps=260, video=False, quiet=True, **SMALL)
    with films_here():
        found = explanation.gather(folder, None, 0, None, 21)
    return folder, found


@pytest.fixture(scope="module")
def page(browser, explained):
    folder, found = explained
    file = folder / "explain.html"
    file.write_text(render(found), "utf-8")
    page = Page(browser, file)
    yield page
    page.page.close()


def told(page):
    return page.page.locator("#told").inner_text()


def path_of(update, i):
    """The target as the page writes it: the reward, and what follows."""
    taken = "Q1" if update.next_q1[i] < update.next_q2[i] else "Q2"
    return re.compile(rf"Qt1 .*, Qt2 .*: {taken} is taken . target .* = .* . Q1 says ")


def test_it_is_quiet_and_asks_for_nothing(page):
    assert page.is_quiet()
    assert page.page.title() == "Pendulum-v1, step by step · t3d"
    assert page.page.locator("section.step").count() == 12
    assert page.run("document.querySelectorAll('math').length") == 12
    assert page.run("[...document.querySelectorAll('math')].every(m => m.getBoundingClientRect().height > 10)")


def test_histograms_are_those_of_the_batch(page, explained):
    update = explained[1].update
    for step, values in ((4, update.reward), (9, update.target_q), (8, update.next_q2 - update.next_q1)):
        counts = page.run(f"Chart.getChart('chart-{step}').data.datasets[0].data.map(p => p.y)")[:-1]
        expected, _ = np.histogram(values.astype(float), len(counts))
        assert sum(counts) == 16
        assert np.abs(np.cumsum(counts) - np.cumsum(expected)).max() <= 1  # five digits stand on the page


def test_pointing_at_a_mark_shows_its_path_and_a_click_keeps_it(page, explained):
    update, followed = explained[1].update, explained[1].followed
    assert told(page).startswith("Point at one")
    page.page.locator("#chart-9").scroll_into_view_if_needed()
    place = page.run(
        "(() => { const chart = Chart.getChart('chart-9'), box = chart.canvas.getBoundingClientRect();"
        f" return [box.left + chart.scales.x.getPixelForValue({update.target_q[followed[1].row]}), box.top + 60]; }})()"
    )
    page.page.mouse.move(*place)
    page.until("document.body.dataset.focus !== undefined")
    shown = int(page.run("document.body.dataset.focus"))
    # Two of the three may lie on the same place.
    assert update.target_q[followed[shown].row] == pytest.approx(update.target_q[followed[1].row], abs=0.3)
    assert path_of(update, followed[shown].row).match(told(page))
    page.page.mouse.click(*place)
    page.page.mouse.move(0, 0)
    button = page.page.locator(f".follow button:nth-child({shown + 1})")
    assert button.get_attribute("aria-pressed") == "true"
    assert path_of(update, followed[shown].row).match(told(page))
    button.click()
    page.page.mouse.move(0, 0)
    page.run("document.activeElement.blur()")
    assert told(page).startswith("Point at one")


def test_the_keyboard_follows_a_transition_and_moves_the_cursor(page, explained):
    update, followed = explained[1].update, explained[1].followed
    third = page.page.locator(".follow button:nth-child(3)")
    third.focus()
    assert path_of(update, followed[2].row).match(told(page))
    page.page.keyboard.press("Enter")
    assert third.get_attribute("aria-pressed") == "true"
    page.page.keyboard.press("Enter")
    page.run("document.activeElement.blur()")
    page.run("document.querySelector('video').pause()")
    page.page.locator("#promises").focus()
    before = int(re.match(r"Step (\d+)", page.page.locator("#now").inner_text())[1])
    page.page.keyboard.press("PageDown")
    page.page.keyboard.press("ArrowRight")
    page.until(f"document.getElementById('now').textContent.startsWith('Step {before + 11}:')")


def test_the_film_moves_the_cursor_and_a_click_on_the_curve_the_film(page, explained):
    pytest.importorskip("av", reason="the extra `video` is not installed")
    judged, film = explained[1].judged, explained[1].film
    assert film.pace == 30
    assert base64.b64encode(film.mp4).decode() in page.file.read_text()
    page.run("document.querySelector('video').pause()")
    page.run("document.querySelector('video').currentTime = 10.5 / 30")
    page.until("document.getElementById('now').textContent.startsWith('Step 10:')")
    shown = page.page.locator("#now").inner_text()
    numbers = [float(text.replace("\N{MINUS SIGN}", "-")) for text in re.findall(r"[\N{MINUS SIGN}]?\d+\.?\d*", shown)]
    expected = [10, 1, judged.q1[10], 2, judged.q2[10], judged.obtained[10]]
    assert numbers[:6] == pytest.approx(expected, rel=1e-3)
    page.run("document.getElementById('promises').scrollIntoView()")
    place = page.run(
        "(() => { const chart = Chart.getChart('promises'), box = chart.canvas.getBoundingClientRect();"
        " return [box.left + chart.scales.x.getPixelForValue(5), box.top + 60]; })()"
    )
    page.page.mouse.click(*place)
    page.until("document.getElementById('now').textContent.startsWith('Step 5:')")
    page.until("Math.abs(document.querySelector('video').currentTime - 5.5 / 30) < 0.02")
    assert "The film shows the first 20 steps" in page.page.locator(".film figcaption").inner_text()


def test_pointing_at_any_line_of_the_path_tells_of_that_transition(page, explained):
    update, followed = explained[1].update, [one.row for one in explained[1].followed]
    page.run("document.getElementById('path').scrollIntoView()")
    away = [min(abs(update.target_q[i] - update.target_q[f]) for f in followed) for i in range(16)]
    alone = int(np.argmax(away))
    place = page.run(
        "(() => { const chart = Chart.getChart('path'), box = chart.canvas.getBoundingClientRect();"
        " return [box.left + chart.scales.x.getPixelForValue(3), box.top + chart.scales.y.getPixelForValue("
        f"{float(update.target_q[alone])})]; }})()"
    )
    page.page.mouse.move(*place)
    page.until("document.getElementById('told').textContent.startsWith('Transition ')")
    assert told(page).startswith(f"Transition {alone} of the batch: Qt1 ")
    page.page.mouse.move(0, 0)


def test_maps_are_grey_where_nothing_was_seen(page, explained):
    plane = explained[1].plane
    row, column = np.argwhere(~plane.seen)[0]
    pixel = page.run(
        "([x, y]) => { const c = document.getElementById('map-0');"
        " return [...c.getContext('2d').getImageData(x, y, 1, 1).data]; }",
        [int(column) * 10 + 5, (47 - int(row)) * 10 + 5],
    )
    assert pixel[:3] == [0xDC, 0xDE, 0xDD]
    assert page.page.locator(".maps canvas[role=img]").count() == 2


@pytest.mark.slow
def test_nothing_is_wider_than_the_screen_and_dark_and_light_follow_the_system(page):
    seen = []
    for width, scheme in ((360, "light"), (400, "dark"), (768, "light"), (1280, "dark"), (1920, "light")):
        page.page.set_viewport_size({"width": width, "height": 800})
        page.page.emulate_media(color_scheme=scheme)
        page.page.wait_for_timeout(100)
        assert page.run("document.documentElement.scrollWidth") == width
        assert page.run("Math.min(...[...document.querySelectorAll('canvas[id]')].map(c => c.clientWidth))") > 200
        seen.append(
            page.run("[getComputedStyle(document.body).color, Chart.getChart('chart-4').options.scales.x.ticks.color]")
        )
    assert seen[0] == seen[2] == seen[4] != seen[1] == seen[3]
    assert page.is_quiet()


@pytest.mark.slow
def test_many_actions_are_rows_and_one_is_chosen_for_the_charts(browser, tmp_path):
    pytest.importorskip("mujoco")
    options = SMALL | {"steps": 260, "video": False, "quiet": True}
    run = t3d.train("HalfCheetah-v5", out=tmp_path / "run", env_kwargs={"reset_noise_scale": 0.2}, **options)
    page = Page(browser, api.explain_run(run.path)[0])
    assert "No episode was played" in page.page.locator("ul.notes").inner_text()
    first = page.run("Chart.getChart('chart-5').data.datasets[0].data.map(p => p.y)")
    page.page.locator("#dimension").select_option(label="5")
    assert page.run("Chart.getChart('chart-5').data.datasets[0].data.map(p => p.y)") != first
    assert page.page.locator(".dimension").first.inner_text() == "5"
    assert page.page.locator(".maps").count() == 0
    assert page.is_quiet()
