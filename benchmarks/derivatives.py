"""What derivatives cost, in gradients of the same process, and whether they are right: every route, and other packages.

    python benchmarks/derivatives.py [--rounds 9] [--networks mlp cnn gpt] [--compiled] [--csv FILE]

Speed is the median over paired rounds of time(row) / time(gradient), in CPU time of one thread. Memory is the peak of
what the allocator handed out beyond what was held before, over that of one gradient. The error of H v is relative to
central differences of gradients in float64, on the smooth network (GELU for ReLU, whose kinks differences see). T is
taken as v -> T(v, v). The self-test runs in float64, and is given in gradients of float64. Other packages are measured
where they are installed:

    python -m pip install -c constraints.txt curvlinops-for-pytorch pyhessian hessian-eigenthings

Attention runs on its plain kernel in the other packages, which fail on the fused one.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import table

WANTED: dict[str, dict[str, float]] = {
    "g and H g, double backward": {"mlp": 2.45, "cnn": 4.9, "gpt": 3.4},
    "g and H g, compiled": {"mlp": 1.55, "gpt": 2.4},
    "each further H v, kept graph": {"mlp": 1.35, "cnn": 3.6, "gpt": 2.2},
    "g and H g, double backward over PyHessian": dict.fromkeys(("mlp", "cnn", "gpt"), 1.05),
}
MEMORY = {"g and H g, double backward": {"mlp": 2.4, "cnn": 2.9, "gpt": 2.6}}


def seconds(f: Callable[[], object], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        f()
    return (time.process_time() - start) / repeats


def peak(f: Callable[[], object]) -> int:
    """Highest number of bytes that torch held at once during ``f``, beyond those at its beginning."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        f()
    held = highest = 0
    for event in found.profiler.kineto_results.events():  # type: ignore[union-attr] - after the block
        if event.name() == "[memory]":
            held += event.nbytes()  # type: ignore[attr-defined] - not in its stub
            highest = max(highest, held)
    return highest


@contextmanager
def plain_attention() -> Iterator[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


def routes(objective: Any, theta: Any, v: Any, *, compiled: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, what is timed), each returning H v, or T(v, v), last."""
    by = {p: objective.replaced(product=p) for p in ("double-backward", "difference", "compiled")}

    def pair(product: str) -> Callable[[], Any]:
        return lambda: by[product].gradient_and_hvp(theta)[1]

    kept = by["double-backward"].expansion(theta)
    known = by["difference"].expansion(theta)
    yield "g and H g, double backward", pair("double-backward")
    yield "each further H v, kept graph", lambda: kept.hvp(v)
    yield "H v by a forward difference, g known", lambda: known.hvp(v)
    yield "T(v, v), triple backward", lambda: by["double-backward"].third(theta, v, v)
    yield "self-test, H", lambda: objective.check(1)
    yield "self-test, H and T", lambda: objective.check(2)
    if compiled:
        yield "g and H g, compiled", pair("compiled")


def peers(model: Any, loss: Any, batch: Any, v: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, H v by another package), where it is installed."""
    import torch
    from torch.nn import functional as F

    parameters = [p for p in model.parameters() if p.requires_grad]
    sizes, shapes = [p.numel() for p in parameters], [p.shape for p in parameters]
    parts = [x.view(s) for x, s in zip(v.split(sizes), shapes, strict=True)]
    x, y = batch

    if find_spec("curvlinops"):
        curvlinops = import_module("curvlinops")
        operator = curvlinops.HessianLinearOperator(
            model, torch.nn.CrossEntropyLoss(), parameters, [(x, y)], check_deterministic=False, num_data=len(x)
        )
        yield "curvlinops, H v", lambda: operator @ v
    if find_spec("pyhessian"):
        utils = import_module("pyhessian.utils")

        def pyhessian() -> Any:  # what its `hessian` class does with one batch
            model.zero_grad()
            F.cross_entropy(model(x), y).backward(create_graph=True)
            weights, g = utils.get_params_grad(model)
            found = torch.cat([x.reshape(-1) for x in utils.hessian_vector_product(g, weights, parts)])
            model.zero_grad()
            return found

        yield "PyHessian, g and H v", pyhessian
    if find_spec("hessian_eigenthings"):
        eigenthings = import_module("hessian_eigenthings.operators").HessianOperator(
            model, [(x, y)], lambda m, b: F.cross_entropy(m(b[0]), b[1])
        )
        yield "hessian-eigenthings, H v", lambda: eigenthings.matvec(v)


def truth(name: str) -> Any:
    """H v by central differences of gradients in float64, with their error of second order removed."""
    import torch

    objective, theta, v = smooth(name, torch.float64)

    def central(e: float) -> Any:
        return (objective.gradient(theta + e * v) - objective.gradient(theta - e * v)) / (2 * e)

    return (4 * central(5e-4) - central(1e-3)) / 3


def smooth(name: str, dtype: Any) -> tuple[Any, Any, Any]:
    """The network with GELU for ReLU: objective, theta, a direction."""
    import torch
    from models import cross_entropy, make

    import eom

    model, batch = make(name, torch.nn.GELU)
    objective = eom.Objective(model, cross_entropy, batch)
    theta = objective.theta()
    v = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0))
    return objective, theta.to(dtype), (v / v.norm()).to(dtype)


def measure(name: str, rounds: int, *, compiled: bool) -> Iterator[dict[str, Any]]:
    import torch
    from models import cross_entropy, make

    import eom

    model, batch = make(name)
    objective = eom.Objective(model, cross_entropy, batch)
    theta = objective.theta()
    v = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0))
    v /= v.norm()
    with plain_attention():
        units = {at.dtype: partial(objective.gradient, at) for at in (theta, theta.double())}
        for gradient in units.values():  # the first evaluation looks closer
            gradient()
        held = {dtype: peak(gradient) for dtype, gradient in units.items()}
        rows = [*routes(objective, theta, v, compiled=compiled), *peers(model, cross_entropy, batch, v)]
        repeats = 8 if name == "mlp" else 1
        for row, f in rows:
            dtype = torch.float64 if row.startswith("self-test") else torch.float32
            try:
                start = time.perf_counter()
                f()
                first = time.perf_counter() - start
                ratios = [seconds(f, repeats) / seconds(units[dtype], repeats) for _ in range(rounds)]
                memory = peak(f) / held[dtype]
            except Exception as failure:  # a peer's
                yield {"row": row, "network": name, "failed": said(failure)}
                continue
            yield {
                "row": row,
                "network": name,
                "gradients": statistics.median(ratios),
                "memory": memory,
                "first_call_s": first,
            }
        if theirs := dict(rows).get("PyHessian, g and H v"):
            ours = dict(rows)["g and H g, double backward"]
            ratios = [seconds(ours, repeats) / seconds(theirs, repeats) for _ in range(rounds)]
            row = "g and H g, double backward over PyHessian"
            yield {
                "row": row,
                "network": name,
                "gradients": statistics.median(ratios),
                "memory": peak(ours) / peak(theirs),
            }


def errors(name: str) -> Iterator[dict[str, Any]]:
    """Relative error of H v in float32 and float64, by each route and package."""
    import torch
    from models import cross_entropy, make

    reference = truth(name)
    for dtype in (torch.float32, torch.float64):
        objective, theta, v = smooth(name, dtype)
        model, batch = make(name, torch.nn.GELU)
        batch = tuple(x.to(dtype) if x.is_floating_point() else x for x in batch)
        routes = {p: objective.replaced(product=p).expansion(theta).hvp for p in ("double-backward", "difference")}
        rows = [(f"H v by {product}", partial(hvp, v)) for product, hvp in routes.items()]
        with plain_attention():
            for row, f in [*rows, *peers(model.to(dtype), cross_entropy, batch, v)]:
                try:
                    error = float((f().double() - reference).norm() / reference.norm())
                except Exception as failure:  # a peer's
                    yield {"row": row, "network": name, "failed": said(failure)}
                    continue
                yield {"row": row, "network": name, "dtype": str(dtype).removeprefix("torch."), "error": error}


def said(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}".splitlines()[0]


def main() -> None:
    table.hold_still(KINETO_LOG_LEVEL="99")  # of the memory profiler
    parser = table.parser(__doc__, rounds=9)
    parser.add_argument("--networks", nargs="+", default=["mlp", "cnn", "gpt"])
    parser.add_argument("--compiled", action="store_true", help="the compiled route too: minutes")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, float32; in gradients: time (wanted), peak memory (wanted)")
    found = []
    for name in options.networks:
        for row in measure(name, options.rounds, compiled=options.compiled):
            found.append(row)
            wanted, memory = (limits.get(row["row"], {}).get(name) for limits in (WANTED, MEMORY))
            shown = row.get("failed") or (
                f"{row['gradients']:6.2f} {f'({wanted})' if wanted else '':7s} {row['memory']:6.2f} "
                f"{f'({memory})' if memory else ''}"
                f"{'  first call {:.0f} s'.format(row['first_call_s']) if 'compiled' in row['row'] else ''}"
            )
            print(f"{name:4s} {row['row']:40s} {shown}", flush=True)
        for row in errors(name):
            found.append(row)
            shown = row.get("failed") or f"error of H v in {row['dtype']}: {row['error']:.1e}"
            print(f"{name:4s} {row['row']:40s} {shown}", flush=True)
    table.write(found, options.csv)


if __name__ == "__main__":
    main()
