"""`eom demo`: handwritten digits, a small convolutional network, three learning rates, one report."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from eom.errors import FolderUsedError, TrackingWarning
from eom.records import Run
from eom.tracking import track

Batch = tuple[Tensor, Tensor]

RATES = (0.005, 0.02, 0.2)  # the last reaches the edge of stability within the run
WEIGHT_DECAY = 0.01
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


def setup() -> tuple[nn.Module, Callable[[nn.Module, Batch], Tensor], Batch]:
    """The demonstration for `eom check eom.demo:setup`."""
    return network(), cross_entropy, digits(SMALL_SAMPLES)


def train(
    lr: float,
    run: Path,
    *,
    batch: Batch,
    steps: int = STEPS,
    activation: Callable[[], nn.Module] = nn.GELU,
    horizon: int | None = HORIZON,
    progress: Callable[[], None] = lambda: None,
) -> Run:
    """Full-batch gradient descent with weight decay, tracked."""
    model = network(activation)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)
    settings: dict[str, Any] = {"every": 10, "sharpness": 4, "horizon": horizon, "horizons": max(1, steps // 10)}
    with track(model, optimizer, cross_entropy, run, **settings) as tracker:
        for _ in range(steps):
            optimizer.zero_grad()
            tracker.loss(batch).backward()
            optimizer.step()
            progress()
    return tracker.run


def run_demo(out: Path, *, small: bool = False) -> Path:
    """Train at three learning rates, print what was found, and return the path of the report.

    Raises:
        FolderUsedError: ``out`` holds something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FolderUsedError(f"{out} is not empty: delete it, or choose another folder with --out")
    from eom.analysis.reading import Reading
    from eom.analysis.report import report
    from eom.analysis.show import show

    console = Console()
    batch = digits(SMALL_SAMPLES if small else None)
    steps, horizon = (SMALL_STEPS, SMALL_HORIZON) if small else (STEPS, HORIZON)
    console.print(
        f"Full-batch gradient descent on {len(batch[1])} handwritten digits, {steps} steps at each of {len(RATES)} "
        f"learning rates, weight decay {WEIGHT_DECAY}, float64."
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps"))
    runs = []
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", TrackingWarning)  # events are shown below
        for lr in RATES:
            task = bar.add_task(f"lr {lr:g}", total=steps)
            settings: dict[str, Any] = {"batch": batch, "steps": steps, "horizon": horizon}
            runs.append(train(lr, out / f"lr-{lr:g}", **settings, progress=lambda task=task: bar.advance(task)))
    readings = [Reading.of(run) for run in runs]
    for lr, reading in zip(RATES, readings, strict=True):
        console.rule(f"learning rate {lr:g}")
        show(reading, console)
    page = report(readings, out / "report.html")
    console.rule()
    console.print(f"report: {page}", soft_wrap=True)
    return page
