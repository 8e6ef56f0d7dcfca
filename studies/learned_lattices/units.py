"""In what unit is a network to see KdV's values? Energies learned from the lower solutions, tried on the highest third.

    python studies/learned_lattices/units.py [--out FILE]

Features of small arguments are nearly polynomials, which go on where nothing was seen; of large ones they saturate. No
solution that the study predicts is looked at. A quarter of an hour on a core.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from run import SETTINGS, WIDTH, data, discrete_gradient

from eom import physics
from eom.physics import Trajectories

UNITS = (4.0, 16.0, 64.0, 256.0)


def left(pairs: Trajectories, unit: float) -> float:
    """The mean square residual of the highest third of ``pairs``, which were not learned from."""
    order, lower = pairs.states.amax((1, 2)).argsort().tolist(), 2 * len(pairs.states) // 3
    model, last = discrete_gradient(SETTINGS["KdV"]._replace(unit=unit, step=unit / 4), WIDTH)
    model = model.double()
    physics.solve_linear(model, pairs.select(order[:lower]), [last.weight], rcond=SETTINGS["KdV"].rcond)
    with torch.no_grad():
        return float(physics.mean_square(model, pairs.select(order[lower:]).windows()))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, help="CSV of all rows")
    out = options.parse_args().out
    torch.set_num_threads(1)
    rows = []
    for seed in range(5):
        pairs, _ = data("KdV", False, seed, 1, 500)
        random = torch.get_rng_state()
        for unit in UNITS:
            torch.set_rng_state(random)
            rows.append({"seed": seed, "unit": unit, "left": left(pairs, unit)})
            print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    if out:
        frame.to_csv(out, index=False)
    print(frame.groupby("unit").left.agg(["min", "median", "max"]))


if __name__ == "__main__":
    main()
