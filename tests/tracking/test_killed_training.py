"""A training that is killed at any moment leaves a readable run, whole up to its last record."""

import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from eom.errors import NotARunError, TornTableWarning
from eom.records import open_run

LOOP = """
import itertools, sys
sys.path[:0] = sys.argv[2:]
import torch
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
from problems import cross_entropy, tanh_mlp
from torch.optim import SGD
from trainings import steps
import eom

for number in itertools.count():
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=0.05, weight_decay=0.01)
    print("start", number, flush=True)
    with eom.track(model, optimizer, cross_entropy, f"{sys.argv[1]}/{number}", every=1, sharpness=0) as tracker:
        for step in range(25):
            steps(optimizer, tracker.loss, [batch])
            print("step", step, flush=True)
    print("end", number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_killed_training_reads_back_to_its_last_record(tmp_path, seed):
    here = Path(__file__).parent
    command = [sys.executable, "-c", LOOP, str(tmp_path), str(here), str(here.parent)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        lines = [child.stdout.readline()]
        time.sleep(random.Random(seed).uniform(0.0, 1.5))
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read().splitlines()
    done: dict[int, int] = {}
    for word, number in (line.split() for line in lines if len(line.split()) == 2):
        if word == "start":
            done[int(number)] = -1
        elif word == "step":
            done[max(done)] = int(number)
    for number, last in done.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TornTableWarning)
            try:
                run = open_run(tmp_path / str(number))
            except NotARunError:  # killed before there was one
                assert last == -1
                continue
            table = run.table()
            run.events()
        values = table[table.quantity.isin(["norm", "norm_squared"])].groupby("step").size()
        assert (values.loc[:last] == 14).all()
        assert list(values.loc[:last].index) == list(range(last + 1))
        rates = table[table.quantity.str.endswith("_rate")].groupby("step").size()
        assert list(rates.loc[: last - 5].index) == list(range(last - 4))  # complete five steps later
        assert (rates.loc[: last - 5] == 56).all()
        if number < max(done):
            assert "finished" in run.manifest
