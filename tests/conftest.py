"""What the suite costs, at its end: a file that grows dear is seen by whoever made it so."""

import time
from collections import Counter

SHOWN = 10
began = time.monotonic()


def pytest_terminal_summary(terminalreporter):
    spent = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):  # a test's set-up, call or tear-down; from a worker, too
                spent[report.nodeid.split("::")[0]] += report.duration
    wall = time.monotonic() - began
    terminalreporter.section(f"{sum(spent.values()):.0f} s in tests, {wall:.0f} s of wall time; the dearest files")
    for file, seconds in spent.most_common(SHOWN):
        terminalreporter.write_line(f"{seconds:7.1f} s  {file}")
