"""A kill at any moment loses nothing that an append has returned from."""

import random
import signal
import subprocess
import sys
import time
import warnings

import pytest

from eom.errors import NotARunError, TornTableWarning
from eom.records import open_run

LOOP = """
import itertools, sys
from eom.records import Row, RunWriter
for number in itertools.count():
    print("start", number, flush=True)
    with RunWriter.create(f"{sys.argv[1]}/{number}", {"number": number}) as writer:
        for step in range(200):
            writer.append([
                Row(step, step / 3, f"layer {i},\\n'\\"two\\" lines'", "norm", "measured", (step + i) / 7, 1e-9)
                for i in range(50)
            ])
            if step % 20 == 0:
                writer.update(step=step)
            print("step", step, flush=True)
    print("end", number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_killed_run_reads_back_to_its_last_flush(tmp_path, seed):
    child = subprocess.Popen([sys.executable, "-c", LOOP, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(random.Random(seed).uniform(0.0, 0.6))
        child.send_signal(signal.SIGKILL)
        lines = [first, *child.stdout.read().splitlines()]
    flushed = {}
    for word, number in (line.split() for line in lines if len(line.split()) == 2):
        if word == "start":
            run = int(number)
            flushed[run] = -1
        elif word == "step":
            flushed[run] = int(number)
    for number, last in flushed.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TornTableWarning)
            try:
                found = open_run(tmp_path / str(number))
            except NotARunError:  # killed before there was one
                assert last == -1
                continue
            table = found.table()
        assert found.manifest["number"] == number
        complete = table[table.step <= last]
        assert len(complete) == 50 * (last + 1)
        place = complete.groupby("step").cumcount()
        assert (complete.value == (complete.step + place) / 7).all()
        assert len(table) <= 50 * (last + 2)
