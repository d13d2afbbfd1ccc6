"""In which order files are begun, and what the suite costs: a file that grows dear is seen by its author."""

import time
from collections import Counter

import pytest

SHOWN = 10
# These begin first: one that is begun last is waited for by the other workers.
DEAREST = ["test_ended.py", "test_workers.py", "test_page.py", "test_hostile.py", "test_seeds.py"]
DEAREST += ["test_failing_calls.py", "test_coming_back.py", "test_video.py", "test_determinism.py", "test_config.py"]
began = time.monotonic()


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(DEAREST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))  # keeps the order of all others


@pytest.fixture
def one_thread():
    """One thread of PyTorch's while a test lasts: networks as small as a test's gain nothing from a second one."""
    import torch  # most tests do without

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
