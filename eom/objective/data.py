"""Batches: the tensors in them, their weights, and the rule that every pass yields the same ones."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from eom.errors import DataError

Batch = Any


def tensors(batch: Batch) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and mappings, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        yield from (x for value in batch.values() for x in tensors(value))
    elif isinstance(batch, list | tuple):
        yield from (x for value in batch for x in tensors(value))


def mapped(batch: Batch, f: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with ``f`` of each of its tensors, in the order of ``tensors``; the rest as it is."""
    if isinstance(batch, Tensor):
        return f(batch)
    if isinstance(batch, Mapping):
        return type(batch)({k: mapped(v, f) for k, v in batch.items()})  # type: ignore[call-arg] - a user's own mapping
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(mapped(v, f) for v in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(mapped(v, f) for v in batch)
    return batch


def in_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch with its floating tensors in ``dtype``."""
    return mapped(batch, lambda x: x.to(dtype) if x.is_floating_point() else x)


def same(a: Batch, b: Batch) -> bool:
    """Whether two batches hold the same tensors: the same objects, or equal entries."""
    xs, ys = list(tensors(a)), list(tensors(b))
    return len(xs) == len(ys) and all(
        x is y or (x.shape == y.shape and x.dtype == y.dtype and x.device == y.device and torch.equal(x, y))
        for x, y in zip(xs, ys, strict=True)
    )


def digest(xs: Iterable[Tensor]) -> str:
    """SHA-256 of shapes, dtypes and entries."""
    found = hashlib.sha256()
    for x in xs:
        x = (x.detach() if x.layout == torch.strided else x.detach().to_dense()).cpu().contiguous()
        found.update(f"{x.dtype}{tuple(x.shape)}".encode())
        found.update(x.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def length(batch: Batch) -> float:
    """Number of samples: the first dimension of the first tensor that has one; 1 where none has."""
    return float(next((x.shape[0] for x in tensors(batch) if x.ndim), 1))


class Batches:
    """One batch, or a re-iterable of batches, as weighted batches that are the same on every pass.

    Raises:
        DataError: an iterator, shuffled or empty data; later, a pass that differs from the first one.
    """

    def __init__(self, data: Any, weight: Callable[[Batch], float] = length, *, single: bool | None = None):
        self.single = is_one_batch(data) if single is None else single
        self._data = [data] if self.single else data
        self._weight = weight
        if isinstance(self._data, Iterator):
            raise DataError(
                f"data is a {type(data).__name__}, which can be read once; derivatives need the same batches again "
                "and again. Pass a list of batches, or a DataLoader with shuffle=False."
            )
        if isinstance(data, DataLoader) and isinstance(data.sampler, RandomSampler):
            raise DataError(
                "data is a DataLoader that shuffles; every pass must yield the same batches. Pass shuffle=False."
            )
        self._first = [mark for mark, _ in self._marked()]
        if not self._first:
            raise DataError("data holds no batch; expected at least one")
        weights = [weight for weight, _ in self._first]
        self.total = sum(weights)
        if not (min(weights) >= 0 and 0 < self.total < math.inf):
            raise DataError(
                f"the weights of the batches range from {min(weights)} to {max(weights)} and sum to {self.total}, "
                "expected none below 0 and a positive, finite sum"
            )

    def __iter__(self) -> Iterator[tuple[float, Batch]]:
        """Yield (weight / total weight, batch)."""
        seen = 0
        for mark, batch in self._marked():
            if seen >= len(self._first) or mark != self._first[seen]:
                raise DataError(
                    f"batch {seen} differs from the first pass over the data; every pass must yield the same batches. "
                    "Shuffling or random augmentation is the usual cause: pass shuffle=False, or a list of batches."
                )
            yield mark[0] / self.total, batch
            seen += 1
        if seen != len(self._first):
            raise DataError(f"this pass over the data gave {seen} batches, the first one {len(self._first)}")

    def __len__(self) -> int:
        return len(self._first)

    @property
    def first(self) -> Batch:
        return next(iter(self._data))

    def _marked(self) -> Iterator[tuple[tuple[float, float], Batch]]:
        """Yield ((weight, checksum), batch); a single batch is held here and needs no checksum."""
        for batch in self._data:
            yield (float(self._weight(batch)), 0.0 if self.single else checksum(batch)), batch


def checksum(batch: Batch) -> float:
    """A number that changes when the batch does."""
    return sum(x.detach().double().nan_to_num().sum().item() for x in tensors(batch) if not x.is_complex())


def is_one_batch(data: Any) -> bool:
    """A tensor, tuple, mapping, list of tensors, or anything that cannot be iterated is one batch."""
    if isinstance(data, list):
        return bool(data) and all(isinstance(x, Tensor) for x in data)
    return isinstance(data, Tensor | tuple | Mapping) or not hasattr(data, "__iter__")
