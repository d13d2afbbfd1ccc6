"""What the crash tests share."""

import tempfile
from pathlib import Path

import pytest
import torch
from crash_lives import Server


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder():
    """A folder in memory where there is such a thing: thousands of files come and go."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()
