"""How much memory a double backward needs, and how much there is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

VECTORS = 13  # [n] that the self-test holds at once
FACTOR = 5.0  # peak of a double backward over the below; 1.1, 3.6 and 4.7 on the networks of the benchmarks


class Kept:
    """Bytes that autograd keeps for a backward pass, each tensor once."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}

    def pack(self, x: Tensor) -> Tensor:
        if x.layout == torch.strided:
            self.sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


@contextmanager
def counted() -> Iterator[Kept]:
    """Count what the forward passes in the block keep for their backward passes."""
    kept = Kept()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda x: x):
        yield kept


def kept_by(gradient: Callable[[], Tensor]) -> tuple[int, Tensor]:
    """Bytes kept on the way to a gradient, and the gradient; 0 where they cannot be counted (``torch.func``)."""
    try:
        with counted() as kept:
            found = gradient()
        return kept.bytes, found
    except RuntimeError:  # of the counting; one of the loss's own comes again
        return 0, gradient()


def needed(kept: int, theta: Tensor) -> float:
    """Estimated peak, in bytes, of g and H v where one backward pass keeps ``kept``."""
    return FACTOR * (kept + 2 * theta.numel() * theta.element_size())


def tested(kept: int, theta: Tensor) -> float:
    """Estimated peak, in bytes, of the self-test at ``theta`` [n] where one backward pass keeps ``kept``."""
    return FACTOR * kept + VECTORS * theta.numel() * theta.element_size()


def available(device: torch.device) -> float:
    """Bytes that can be had on this device; infinite where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    found = [float("inf")]
    info = Path("/proc/meminfo")
    if info.exists():
        fields = dict(line.split(":") for line in info.read_text().splitlines())
        found.append(1024.0 * int(fields["MemAvailable"].split()[0]))
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        found.append(float(int(text) - int(used.read_text())))
    return min(found)
