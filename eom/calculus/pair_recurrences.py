"""Recurrent cells and networks of torch, written out for pairs: steps and layers one by one, each sample by itself.

Each has the arguments of the torch function of its name.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from eom.errors import DiscreteError


def gru_cell(x: Any, h: Any, w_x: Tensor, w_h: Tensor, b_x: Any = None, b_h: Any = None) -> Tensor:
    reset, update, new = F.linear(x, w_x, b_x).chunk(3, -1)
    own_reset, own_update, own_new = F.linear(h, w_h, b_h).chunk(3, -1)
    z = torch.sigmoid(update + own_update)
    candidate = torch.tanh(new + torch.sigmoid(reset + own_reset) * own_new)
    return candidate + z * (h - candidate)


def lstm_cell(
    x: Any, hc: Any, w_x: Tensor, w_h: Tensor, b_x: Any = None, b_h: Any = None, projection: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    h, c = hc
    i, f, g, o = (F.linear(x, w_x, b_x) + F.linear(h, w_h, b_h)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return h if projection is None else F.linear(h, projection), c


def rnn_tanh_cell(x: Any, h: Any, w_x: Tensor, w_h: Tensor, b_x: Any = None, b_h: Any = None) -> Tensor:
    return torch.tanh(F.linear(x, w_x, b_x) + F.linear(h, w_h, b_h))


def rnn_relu_cell(x: Any, h: Any, w_x: Tensor, w_h: Tensor, b_x: Any = None, b_h: Any = None) -> Tensor:
    return torch.relu(F.linear(x, w_x, b_x) + F.linear(h, w_h, b_h))


def _network(cell: Callable[..., Any]) -> Callable[..., tuple[Tensor, ...]]:
    """The network of a cell, whose states are tuples."""

    def composed(
        x: Any, start: Any, weights: Any, bias: bool, layers: int, dropout: float, training: bool, both_ways: bool,
        batch_first: bool = False,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        if dropout and training and layers > 1:
            raise DiscreteError("the model draws random numbers (dropout): call model.eval()")
        time, ways = int(batch_first), 1 + both_ways
        steps = x.unbind(time)
        starts = list(zip(*(s.unbind(0) for s in ([start] if isinstance(start, Tensor) else start)), strict=True))
        each = len(weights) // len(starts)
        ends = []
        for layer in range(layers):
            outs = []
            for way in range(ways):
                k = layer * ways + way
                w_x, w_h, *rest = weights[k * each : (k + 1) * each]
                state, found = starts[k], []
                for one in steps[:: -1 if way else 1]:
                    state = cell(one, state, w_x, w_h, *(rest if bias else [None, None, *rest]))
                    found.append(state[0])
                ends.append(state)
                outs.append(found[:: -1 if way else 1])
            steps = [torch.cat(both, -1) for both in zip(*outs, strict=True)] if both_ways else outs[0]
        return torch.stack(steps, time), *(torch.stack(last) for last in zip(*ends, strict=True))

    return composed


def _alone(cell: Callable[..., Tensor]) -> Callable[..., tuple[Tensor]]:
    return lambda x, state, *weights: (cell(x, *state, *weights),)


def pack_padded_sequence(*args: Any) -> Any:
    raise DiscreteError("the energy packs sequences: give them to its network as they are, padded")


RECURRENT: dict[str, Callable[..., Any]] = {
    "gru_cell": gru_cell, "lstm_cell": lstm_cell, "rnn_tanh_cell": rnn_tanh_cell, "rnn_relu_cell": rnn_relu_cell,
    "pack_padded_sequence": pack_padded_sequence,
    "gru": _network(_alone(gru_cell)), "lstm": _network(lstm_cell),
    "rnn_tanh": _network(_alone(rnn_tanh_cell)), "rnn_relu": _network(_alone(rnn_relu_cell)),
}  # fmt: skip
