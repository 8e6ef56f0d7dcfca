"""The trainable parameters of a model as one flat vector, and the groups of its entries."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eom.dynamics.observable import IndexSets, Run
from eom.errors import ParametersError, SettingError

Groups = str | Mapping[str, Sequence[str] | Tensor]


@dataclass(frozen=True)
class Layout:
    """Names, shapes and dtype of the trainable parameters, in the order of ``model.named_parameters()``.

    A tied tensor stands once, under its first name; frozen ones (requires_grad=False) do not stand in it.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtype: torch.dtype

    @property
    def sizes(self) -> list[int]:
        return [shape.numel() for shape in self.shapes]

    @property
    def n(self) -> int:
        return sum(self.sizes)

    def flatten(self, tensors: Iterable[Tensor]) -> Tensor:
        """Tensors in the layout's order -> [n], a copy."""
        return torch.cat([x.detach().reshape(-1) for x in tensors])

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """[n] -> {name: view of ``theta``}."""
        parts = theta.split(self.sizes)
        return {k: x.view(shape) for k, x, shape in zip(self.names, parts, self.shapes, strict=True)}

    def run(self, name: str) -> Run:
        """Where the tensor ``name`` stands in the flat vector, [start, stop)."""
        at = self.names.index(name)
        start = sum(self.sizes[:at])
        return start, start + self.sizes[at]


def plain(model: nn.Module) -> nn.Module:
    """The module inside torch.compile's and DistributedDataParallel's wrappers."""
    model = getattr(model, "_orig_mod", model)
    parallel = nn.parallel.DistributedDataParallel | nn.DataParallel
    return plain(model.module) if isinstance(model, parallel) else model  # type: ignore[arg-type] - a wrapper's module


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require a gradient, tied ones once."""
    return {k: p for k, p in model.named_parameters() if p.requires_grad}


def layout_of(model: nn.Module) -> Layout:
    """The layout of a model's trainable parameters.

    Raises:
        ParametersError: none to train, not of one real floating dtype on one device, with sparse gradients or max_norm.
    """
    parameters = trainable(model)
    if not parameters:
        raise ParametersError(
            f"{type(model).__name__} has no trainable parameter; expected at least one with requires_grad=True. "
            "Lazy modules have none before their first forward pass."
        )
    for name, p in parameters.items():
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise ParametersError(f"parameter {name!r} is not initialised yet: run the model once on a batch")
        if not p.is_floating_point():
            raise ParametersError(
                f"parameter {name!r} is {p.dtype}, expected a real floating dtype: store real and imaginary parts "
                "as two real parameters (torch.view_as_real)"
            )
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse and module.weight.requires_grad:
            raise ParametersError(
                f"{type(module).__name__} {name!r} gives sparse gradients, expected dense ones: build it with "
                "sparse=False"
            )
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            raise ParametersError(
                f"{type(module).__name__} {name!r} has max_norm, which rewrites its weights in every forward pass, so "
                "that the loss is no function of them: drop max_norm, or normalise in the forward pass (F.normalize)"
            )
    for what in ("device", "dtype"):
        kinds = {getattr(p, what): name for name, p in parameters.items()}
        if len(kinds) > 1:
            found = ", ".join(f"{name!r} is {kind}" for kind, name in kinds.items())
            raise ParametersError(
                f"the parameters have {len(kinds)} {what}s ({found}), expected one: move the model with model.to(...)"
            )
    first = next(iter(parameters.values()))
    return Layout(tuple(parameters), tuple(p.shape for p in parameters.values()), first.dtype)


def make_groups(layout: Layout, groups: Groups) -> IndexSets:
    """Named sets of indices into the flat vector, ending with "all".

    Args:
        groups: "tensor" (one per parameter), "module" (one per module that owns parameters), or a mapping from a
            name to parameter names or to indices; groups may overlap.

    Raises:
        SettingError: an unknown grouping or parameter, an index outside, an empty group, or one named "all".
    """
    if isinstance(groups, Mapping):
        wanted = dict(groups)
    elif groups == "tensor":
        wanted = {name: [name] for name, size in zip(layout.names, layout.sizes, strict=True) if size}
    elif groups == "module":
        wanted = {}
        for name, size in zip(layout.names, layout.sizes, strict=True):
            if size:
                wanted.setdefault(name.rpartition(".")[0] or "(model)", []).append(name)
    else:
        raise SettingError(f'groups is {groups!r}, expected "tensor", "module", or a mapping of names')
    if "all" in wanted:
        raise SettingError('a group is named "all", which stands for every parameter: give it another name')
    if len({str(group) for group in wanted}) < len(wanted):
        raise SettingError(f"two groups have the same name: {sorted(map(str, wanted))}; give each its own")
    found = {str(group): _members(layout, str(group), members) for group, members in wanted.items()}
    return IndexSets(found | {"all": [(0, layout.n)]})


def _members(layout: Layout, group: str, members: Sequence[str] | Tensor) -> list[Run] | Tensor:
    if isinstance(members, str) or not hasattr(members, "__len__") or not len(members):
        raise SettingError(f"group {group!r} is {members!r}, expected a non-empty list of parameter names or indices")
    if not isinstance(members, Tensor) and any(isinstance(m, str) for m in members):
        unknown = [m for m in members if m not in layout.names]
        if unknown:
            known = ", ".join(layout.names[:8])
            raise SettingError(f"group {group!r} names {unknown[0]!r}, which is no trainable parameter ({known}, ...)")
        if len(set(members)) < len(members):
            raise SettingError(
                f"group {group!r} holds an index twice, by a parameter named twice: each entry counts once"
            )
        return [layout.run(m) for m in members]  # type: ignore[arg-type] - names
    indices = torch.as_tensor(members)
    whole = indices.dtype in (torch.int64, torch.int32) and indices.ndim == 1
    if not whole or int(indices.min()) < 0 or int(indices.max()) >= layout.n:
        raise SettingError(f"group {group!r} holds other things than whole indices from 0 to {layout.n - 1}")
    if indices.unique().numel() != indices.numel():
        raise SettingError(f"group {group!r} holds an index twice: each entry counts once")
    return indices.long()


def decay_vector(decay: float | Mapping[str, float] | Tensor, layout: Layout) -> Tensor:
    """Weight decay as one number [], or of each entry [n], in float64.

    Raises:
        SettingError: an unknown parameter, another shape, or a number that is negative or not finite.
    """
    if isinstance(decay, Mapping):
        unknown = sorted(set(decay) - set(layout.names))
        if unknown:
            raise SettingError(f"decay names {unknown[0]!r}, which is no trainable parameter")
        parts = [
            torch.full((size,), float(decay.get(k, 0.0)), dtype=torch.float64)
            for k, size in zip(layout.names, layout.sizes, strict=True)
        ]
        vector = torch.cat(parts)
    else:
        vector = torch.as_tensor(decay, dtype=torch.float64)
    if vector.ndim and vector.shape != (layout.n,):
        raise SettingError(f"decay has shape {list(vector.shape)}, expected [{layout.n}]")
    wrong = vector[~(torch.isfinite(vector) & (vector >= 0))]
    if len(wrong):
        raise SettingError(f"decay is {wrong[0].item()}, expected a finite number, 0 or more")
    return vector
