"""`eom demo`: handwritten digits, a small convolutional network, three several learning rates, one comparison."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from eom.errors import FolderUsedError
from eom.sweeps.sweep import sweep

Batch = tuple[Tensor, Tensor]

RATES = (0.005, 0.02, 0.05, 0.2)  # the last reaches the edge of stability within the run
WEIGHT_DECAY = 0.01
DECAYED = {"SGD": partial(torch.optim.SGD, weight_decay=WEIGHT_DECAY)}
STEPS = 200
HORIZON = 10  # steps of the displacement that is compared with the flows, from the middle of the run
SMALL_SAMPLES, SMALL_STEPS, SMALL_HORIZON = 180, 60, 3


def digits(samples: int | None = None) -> Batch:
    """The 1797 handwritten digits that ship with scikit-learn: images [b, 1, 8, 8] in 0..1, float64, and labels [b].

    Source: Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """
    pixels, labels = load_digits(return_X_y=True)
    images = torch.as_tensor(pixels, dtype=torch.float64).view(-1, 1, 8, 8) / 16
    return images[:samples], torch.as_tensor(labels)[:samples]


def network(activation: Callable[[], nn.Module] = nn.GELU) -> nn.Module:
    """Two convolutions with BatchNorm and a linear layer before the softmax, seeded, float64."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), activation()),
        *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), activation()),
        *(nn.Flatten(), nn.Linear(64, 10)),
    ).double()


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the softmax."""
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def setup(samples: int | None = SMALL_SAMPLES) -> tuple[nn.Module, Callable[[nn.Module, Batch], Tensor], Batch]:
    """The demonstration for `eom check eom.demo:setup`, and all of its digits for ``samples=None``."""
    return network(), cross_entropy, digits(samples)


def require_empty(out: Path) -> None:
    """Raise where a demonstration would write among other things."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FolderUsedError(f"{out} is not empty: delete it, or choose another folder with --out")


def run_demo(out: Path, *, small: bool = False) -> Path:
    """Train at some learning rates, print what was found, and return the path of the page that compares them.

    Raises:
        FolderUsedError: ``out`` holds something already.
    """
    require_empty(out)
    from eom.analysis.compare import WANTED, compare
    from eom.analysis.reading import Reading
    from eom.analysis.report import report
    from eom.analysis.show import show
    from eom.sweeping import tell

    console = Console()
    samples, steps, horizon = (SMALL_SAMPLES, SMALL_STEPS, SMALL_HORIZON) if small else (None, STEPS, HORIZON)
    console.print(
        f"Full-batch gradient descent on {samples or 1797} handwritten digits, {steps} steps at each of {len(RATES)} "
        f"learning rates, weight decay {WEIGHT_DECAY}, float64."
    )
    settings: dict[str, Any] = {"every": 10, "sharpness": 4, "horizon": horizon, "horizons": max(1, steps // 10)}
    runs = sweep(partial(setup, samples), RATES, steps, out=out, optimizers=DECAYED, console=console, **settings)
    readings = [Reading.of(run) for run in reversed(runs)]
    for reading in readings:
        console.rule(f"learning rate {reading.settings['reference_lr']:g}")
        show(reading, console)
    console.rule("compared")
    page = report(readings, out / "report.html")
    comparison = compare(readings)
    compared = comparison.report(out)
    tell(comparison, compared, WANTED, console)
    console.print(f"report of each run: {page}", soft_wrap=True)
    return compared
