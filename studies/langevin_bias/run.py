"""How far are the stationary means of Langevin samplers from the density, and how does that fall with the step?"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import answer
from ladders import claims, draw

from eom.analysis.curves import ladder_rows
from eom.stochastic import Ladder
from eom.stochastic.examples import langevin


def main(*, small: bool = False, out: Path | None = None) -> dict[str, float]:
    """The numbers the study claims; the errors are written to ``out`` as CSV if given."""
    levels = 5 if small else 7
    found = langevin([0.1 / 2**k for k in range(levels)], [0.4 / 2**k for k in range(4 if small else 5)])
    if out:
        ladder_rows({"<cos 2x> on a double well": ("step h", found)}).to_csv(out, index=False)
    ratio = at(found["Euler-Maruyama (ULA)"], 0.0125) / at(found["Leimkuhler-Matthews"], 0.0125)
    splittings = found["OBABO"].error[-1] / found["BAOAB"].error[-1]
    return claims(found) | {
        "bias of ULA over that of Leimkuhler-Matthews at h = .0125": ratio,
        "bias of OBABO over that of BAOAB": splittings,
    }


def at(one: Ladder, h: float) -> float:
    """Size of the error at this step."""
    return abs(one.error[min(range(len(one.h)), key=lambda i: abs(one.h[i] - h))])


if __name__ == "__main__":
    answer(__doc__, main, "CSV of the errors", draw)
