"""Every test runs in float64, from the same seed, on one thread."""

import os

# before numpy and torch read them; processes that tests start have them too
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # compiled where they are asked for, in no pool of threads

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
