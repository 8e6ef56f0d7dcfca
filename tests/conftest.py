"""Every test runs in float64, from the same seed, on one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch read it; processes that tests start have it too

import pytest
import torch
from hypothesis import settings

settings.register_profile("seeded", derandomize=True, deadline=None)
settings.load_profile("seeded")

torch.set_num_threads(1)  # the problems are small, and sums are the same on every machine with one thread


@pytest.fixture(autouse=True)
def _float64_and_seeded():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)
