"""One objective over many processes: every rank holds a part of the data, and all compute the same derivatives."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor

from eom.calculus.inner import dot, norm
from eom.errors import EomError, ParametersError, RankError, SettingError

ALIKE = 1e-10  # difference of two vectors, in their size, that is rounding
NOISE = 1 << 16  # random numbers in a mark
ANSWER = timedelta(seconds=5)  # in which a rank that is alive says so, after another was lost
T = TypeVar("T")


@dataclass(frozen=True)
class Shards:
    """The ranks of a process group; ``share`` is this one's part of the weight of all data, which sums to 1.

    ``single`` says that every rank holds one batch; ``places`` are host and process of every rank; ``numbers`` tell
    apart what is asked for more than once.
    """

    group: Any
    share: float
    single: bool
    places: tuple[tuple[str, int], ...]
    numbers: Iterator[int] = field(default_factory=count)

    @classmethod
    def join(cls, group: Any, weight: float, batches: int, theta: Tensor, settings: tuple[Any, ...]) -> "Shards":
        """Meet the other ranks, each with the weight of its data, its number of batches, parameters and settings.

        Raises:
            SettingError: there is no such group, or this process is not in it; or the ranks have other settings.
            ParametersError: the ranks hold other parameters.
            RankError: a rank was lost.
        """
        size = check_group(group)
        place = socket.gethostname(), os.getpid()
        met = meet(group, (weight, batches, place, theta.numel(), mark_of(theta), settings))
        weights, counts, places, lengths, marks, asked = zip(*met, strict=True)
        rounding = ALIKE * float(norm(theta))
        if others := [r for r in range(size) if lengths[r] != lengths[0] or abs(marks[r] - marks[0]) > rounding]:
            raise ParametersError(
                f"rank {', '.join(map(str, others))} holds other parameters than rank 0: begin from the same ones, as "
                "DistributedDataParallel does, or torch.distributed.broadcast"
            )
        if others := [r for r in range(size) if asked[r] != asked[0]]:
            raise SettingError(
                f"rank {', '.join(map(str, others))} has another decay, product or frozen parameters than rank 0: give "
                "all the same"
            )
        return cls(group, weight / sum(weights), max(counts) == 1, places)

    def mean(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Means over the data of all ranks, from those over the own part."""
        flat = torch.cat([x.reshape(-1) for x in parts]) * self.share
        self.together(lambda: dist.all_reduce(flat, group=self.group))
        return tuple(x.view_as(part) for x, part in zip(flat.split([x.numel() for x in parts]), parts, strict=True))

    def everywhere(self, work: Callable[[], T]) -> T:
        """What this rank finds by itself, if every rank finds something.

        Raises:
            RankError: another rank has raised an error; on that one the error itself.
        """
        found, failure = None, None
        try:
            found = work()
        except Exception as error:  # of the user's own loss
            failure = error
        count = torch.tensor([float(failure is not None)])
        self.together(lambda: dist.all_reduce(count, group=self.group))
        if count:
            said: list[Any] = [None] * len(self.places)
            mine = None if failure is None else f"{type(failure).__name__}: {failure}"
            self.together(lambda: dist.all_gather_object(said, mine, group=self.group))
            if failure is not None:
                raise failure
            named = "; ".join(f"rank {r} raised {why}" for r, why in enumerate(said) if why)
            raise RankError(f"the loss cannot be had on all ranks: {named}")
        return found  # type: ignore[return-value] - something, as nothing failed

    def same(self, asked: str, name: str, v: Tensor) -> None:
        """Every rank has to ask for the same, with the same vector of this name.

        Raises:
            RankError: they do not.
        """
        mark, code = mark_of(v), float(crc32(f"{asked} {name} {v.dtype}".encode()))
        ends = torch.tensor([mark, -mark, code, -code], dtype=torch.float64, device=v.device)
        self.together(lambda: dist.all_reduce(ends, dist.ReduceOp.MAX, group=self.group))
        marks, codes = ends.view(2, 2).sum(1).tolist()
        if codes:
            what = f"different things, this one for {asked} in {str(v.dtype).removeprefix('torch.')}"
        elif marks > ALIKE * float(norm(v)):
            what = f"derivatives at different {name}"
        else:
            return
        raise RankError(
            f"the ranks ask for {what}: each has to call the same methods with the same vectors, only data are its own"
        )

    def agreed(self, own: T, good: Callable[[T], Any]) -> T:
        """The finding that all ranks go by: the one that is least ``good``, of the first rank that has it."""
        found: list[Any] = [None] * len(self.places)
        self.together(lambda: dist.all_gather_object(found, own, group=self.group))
        return min(found, key=good)

    def together(self, work: Callable[[], Any]) -> None:
        """Do what takes all ranks.

        Raises:
            RankError: one was lost, or did not come within the timeout of its group; it is named.
        """
        try:
            work()
        except RuntimeError as error:
            raise lost(error, self.group, self.places) from error


def check_group(group: Any) -> int:
    """Number of ranks.

    Raises:
        SettingError: there is no such group, or this process is not in it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise SettingError(
            "process_group was given, and torch.distributed is not initialized: call "
            "torch.distributed.init_process_group first, under torchrun"
        )
    try:
        size = dist.get_world_size(group)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise SettingError(f"process_group is {group!r}, expected a torch.distributed group ({error})") from error
    if dist.get_rank(group) < 0:
        raise SettingError("this process is not in the process group that was given")
    return size


def meet(group: Any, mine: Any) -> list[Any]:
    """What every rank brings to the making of an objective; an error of one in place of its part ends all.

    Raises:
        RankError: another rank brings an error, or was lost.
    """
    met: list[Any] = [None] * dist.get_world_size(group)
    Shards(group, 1.0, True, ()).together(lambda: dist.all_gather_object(met, mine, group=group))
    if failed := {rank: str(brought) for rank, brought in enumerate(met) if isinstance(brought, Exception)}:
        raise RankError("; ".join(f"rank {rank} has no objective: {why}" for rank, why in failed.items()))
    return met


@contextmanager
def told(group: Any) -> Iterator[None]:
    """Let the other ranks, if there is a group, know of an error in what each does by itself before they meet."""
    try:
        yield
    except Exception as error:
        with suppress(EomError):  # this one is raised here
            if group is not None and check_group(group):
                meet(group, EomError(f"{type(error).__name__}: {error}"))
        raise


def lost(error: RuntimeError, group: Any, places: tuple[tuple[str, int], ...] = ()) -> RankError:
    """What an error of torch.distributed means: which ranks answer no more, and which of them have ended."""
    store, missing = dist.distributed_c10d._get_default_store(), []
    ranks = dist.get_process_group_ranks(group)
    for rank in ranks:
        try:
            store.set(f"eom/alive/{dist.get_rank()}", "yes")
            store.wait([f"eom/alive/{rank}"], ANSWER)
        except RuntimeError:
            missing.append(rank)
    gone = [rank for rank, place in zip(ranks, places, strict=False) if rank in missing and ended(*place)]
    if dist.get_rank() in missing:
        said = "a rank was lost, and with it the store of the process group: rank 0, or the launcher, has ended"
    elif missing:
        said = f"rank {', '.join(map(str, gone or missing))} of {len(ranks)} "
        said += "has ended" if gone else "did not answer"
    else:
        said = "the ranks lost each other, though all are alive"
    return RankError(f"{said} ({str(error).partition(chr(10))[0][:200]})")


def mark_of(v: Tensor) -> float:
    """A number that differs where vectors do: their product with random numbers, of variance 1."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(min(NOISE, v.numel()), generator=generator, dtype=torch.float64).to(v.device)
    parts = v.detach().split(NOISE)
    return sum(float(dot(part, noise[: len(part)])) / (k + 1) for k, part in enumerate(parts))


def ended(host: str, process: int) -> bool:
    """Whether a process of this host is known to be no more; a dead one may still wait to be reaped."""
    if host != socket.gethostname() or not Path("/proc/self").exists():
        return False
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"
