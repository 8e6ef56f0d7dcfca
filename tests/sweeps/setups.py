"""Setups for sweeps, in a module so that another process can import them."""

import os
from pathlib import Path
from typing import NamedTuple

import joblib
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import eom

KEPT: list[nn.Module] = []
CALLS: list[int] = []


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def batch(samples: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (samples,), generator=generator)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def plain():
    return network(), cross_entropy, batch()


def dropping():
    return nn.Sequential(network(), nn.Dropout(0.2)), cross_entropy, batch()


def swept_there(lrs: list[float], folder: Path) -> int:
    """Runs of a sweep that a task of a cluster calls."""
    with joblib.parallel_config(backend="dask"):
        return len(eom.sweep(plain, lrs, 20, out=folder, threads=1))


def doubled(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return 2 * cross_entropy(model, batch)


def other_loss():
    return network(), doubled, batch()


def batches():
    x, y = batch()
    return network(), cross_entropy, [(x[:40], y[:40]), (x[40:], y[40:])]


def loader():
    data = torch.utils.data.TensorDataset(*batch())
    return network(), cross_entropy, torch.utils.data.DataLoader(data, batch_size=20, shuffle=True)


def loader_with_workers():
    data = torch.utils.data.TensorDataset(*batch())
    return network(), cross_entropy, torch.utils.data.DataLoader(data, batch_size=20, num_workers=1)


def passing_once():
    """What DataLoader makes of a stream is re-iterable, and empty the second time."""
    stream = iter(list(zip(*batch(), strict=True)))

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return stream

    return network(), cross_entropy, torch.utils.data.DataLoader(Stream(), batch_size=20)


def keeping():
    """The same model again and again, trained further by each run."""
    if not KEPT:
        KEPT.append(network())
    return KEPT[0], cross_entropy, batch()


def counting():
    """A buffer that counts the calls."""
    model = network()
    CALLS.append(1)
    model.register_buffer("calls", torch.tensor(len(CALLS)))
    return model, cross_entropy, batch()


def drawing():
    """Other parameters in every call, whatever the seed."""
    model = network()
    nn.init.normal_(next(model.parameters()), generator=torch.Generator().manual_seed(int.from_bytes(os.urandom(4))))
    return model, cross_entropy, batch()


def heavier():
    """A loss that grows from call to call."""
    CALLS.append(1)
    weight = len(CALLS)
    return network(), lambda model, batch: weight * cross_entropy(model, batch), batch()


class Samples(NamedTuple):
    inputs: Tensor
    labels: Tensor


def named():
    """One batch as a named tuple."""
    return network(), cross_entropy, Samples(*batch())


def decayed(parameters, lr: float):
    """A factory whose weight decay depends on the learning rate, and vanishes at 1."""
    return torch.optim.SGD(parameters, lr, weight_decay=0.1 * (1 - lr))


def parabola(model: nn.Module, batch: Tensor) -> Tensor:
    """Diverges above lr = 2, to infinity soon."""
    return 0.5 * (model.weight * 1.0).square().sum() + 0 * batch.sum()  # type: ignore[operator]


def quadratic():
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.ones_(model.weight)
    return model, parabola, torch.ones(3, 2, dtype=torch.float64)


class Fatal(torch.optim.SGD):
    """Kills its process at its third step, as the system does where memory ends."""

    def step(self, closure=None):  # type: ignore[override]
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 3:
            os._exit(137)
        return super().step(closure)


class Failing(torch.optim.SGD):
    """Fails at its third step, while there is a file named broken in the folder."""

    def step(self, closure=None):  # type: ignore[override]
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 3 and Path("broken").exists():
            raise MemoryError("no memory left")
        return super().step(closure)
