"""What the crash tests share."""

import pytest
import torch
from crash_lives import Server
from crash_runs import folder_in_memory


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder():
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture(scope="session")
def server():
    server = Server()
    yield server
    server.close()
