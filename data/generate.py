"""Makes the data sets of this folder, or checks their hashes: python data/generate.py [--check]."""

import argparse
import hashlib
import json
from pathlib import Path

import torch

from eom.physics import Trajectories, data_sets

HERE = Path(__file__).parent
HASHES = HERE / "hashes.json"
SETS = {  # seed 0; how many trajectories, and whether their times are uneven
    "springs": (data_sets.springs(), 20, False),
    "springs-irregular": (data_sets.springs(), 20, True),
    "pendulums": (data_sets.pendulums(), 20, False),
    "damped-springs": (data_sets.damped_springs(), 20, False),
    "double-pendulums": (data_sets.double_pendulums(), 10, False),
    "two-bodies": (data_sets.two_bodies(), 20, False),
    "three-bodies": (data_sets.three_bodies(), 20, False),
    "chains": (data_sets.chains(), 5, False),
    "stand-in-pendulum": (data_sets.stand_in_pendulum(), 1, False),
    "solitons": (data_sets.solitons(steps=50), 5, False),
    "separations": (data_sets.separations(steps=50), 5, False),
}


def digest(data: Trajectories) -> str:
    """SHA-256 of the numbers to nine digits: the last ones differ between machines."""
    found = hashlib.sha256()
    for x in (data.times, data.states, data.slopes):
        assert x is not None
        found.update(" ".join(f"{v:.9g}" for v in x.flatten().tolist()).encode())
    return found.hexdigest()


def write_csv(data: Trajectories) -> None:
    """The stand-in as a table, as a user's own pendulum would come."""
    columns = torch.cat([data.times[0, :, None], data.states[0]], 1).tolist()
    lines = ["time,angle,momentum", *(",".join(f"{x:.9g}" for x in row) for row in columns)]
    (HERE / "stand-in-pendulum.csv").write_text("\n".join(lines) + "\n")


def main(check: bool = False) -> None:
    if check:
        wanted = json.loads(HASHES.read_text())
        wrong = [name for name in SETS if digest(Trajectories.load(HERE / f"{name}.npz")) != wanted[name]]
        raise SystemExit(f"changed: {', '.join(wrong)}" if wrong else None)
    hashes = {}
    for name, (drawn, count, irregular) in SETS.items():
        data = drawn.draw(count, seed=0, irregular=irregular)
        data.save(HERE / f"{name}.npz")
        hashes[name] = digest(data)
    write_csv(Trajectories.load(HERE / "stand-in-pendulum.npz"))
    HASHES.write_text(json.dumps(hashes, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare the files with their hashes")
    main(**vars(parser.parse_args()))
