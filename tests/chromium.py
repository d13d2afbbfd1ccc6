"""A page of t3d in a real browser."""

import shutil

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)


class Page:
    """A page opened from the disk; every word on its console and every request it makes are kept."""

    def __init__(self, browser, file, **options):
        self.file, self.said, self.asked = file, [], []
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        self.run = self.page.evaluate

    def until(self, expression):
        # Playwright's own waiting evaluates in the page, whose content policy forbids that.
        for _ in range(200):
            if self.run(expression):
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"never came true: {expression}")

    def is_quiet(self):
        self.page.wait_for_timeout(100)
        outside = [url for url in self.asked if url != self.file.as_uri() and not url.startswith("data:")]
        return (self.said, outside) == ([], [])

    def lines(self, chart="learning-0"):
        found = self.run("id => Chart.getChart(id).data.datasets.map(d => [d.label, d.data, !!d.hidden])", chart)
        return {label: ([(point["x"], point["y"]) for point in points], off) for label, points, off in found}
