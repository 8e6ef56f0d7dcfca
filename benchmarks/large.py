"""A large network on the CPU: what a record takes, in gradients and in copies of the parameters.

    python benchmarks/large.py [--model gpt2 | mlp] [--tokens 128] [--csv FILE]

gpt2 is GPT-2 small (124 million parameters) built from its configuration, with random weights, on one sequence; mlp
has 1e8 parameters in eight layers. Memory is the highest resident set of the process beyond that of bare training
steps, over the size of the parameters in float32; time by the clock over that of one gradient, all threads.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import table


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """Highest resident set since the last reset, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def gpt2(tokens: int) -> tuple[Any, Any, Any]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    return model, lambda m, batch: m(input_ids=batch, labels=batch).loss, torch.randint(50257, (1, tokens))


def mlp(tokens: int) -> tuple[Any, Any, Any]:
    import torch
    from torch import nn

    width = 3535
    model = nn.Sequential(*[part for _ in range(8) for part in (nn.Linear(width, width), nn.Tanh())])
    return model, lambda m, batch: m(batch).square().mean(), torch.randn(tokens, width)


def main() -> None:
    table.hold_still(table.RETURNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["gpt2", "mlp"], default="gpt2")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    import torch

    import eom

    torch.manual_seed(0)
    model, loss_fn, batch = {"gpt2": gpt2, "mlp": mlp}[options.model](options.tokens)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    copy = 4 * sum(p.numel() for p in model.parameters())
    rows: list[dict[str, Any]] = []

    def steps(loss: Callable[[Any], Any], count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()
        return time.perf_counter() - start

    steps(lambda b: loss_fn(model, b), 1)
    reset_peak()
    gradient = statistics.median(steps(lambda b: loss_fn(model, b), 1) for _ in range(5))
    bare = peak()
    print(f"{options.model}: {copy / 4e6:.0f} million parameters, one gradient and step {gradient:.2f} s")

    def report(name: str, seconds: float) -> None:
        rows.append({"what": name, "gradients": seconds / gradient - 1, "copies": (peak() - bare) / copy})
        print(f"{name:48s} {rows[-1]['gradients']:6.1f} gradients {rows[-1]['copies']:6.1f} copies", flush=True)

    wanted = 6
    for name, settings in {
        "order 1": {"sharpness": 0},
        "order 1, two groups": {"sharpness": 0, "groups": dict(list(halves(model).items()))},
        "order 1 and the sharpness": {"sharpness": 1},
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            reset_peak()
            with eom.track(model, optimizer, loss_fn, Path(folder) / "run", every=8, **settings) as tracker:
                first = steps(tracker.loss, 1)
                if not rows:
                    report("the first step, with the self-test", first)
                steps(tracker.loss, 7)
                reset_peak()
                report(f"a record, {name}", steps(tracker.loss, 1))
                reset_peak()
                report(f"the seven steps after it, each, {name}", steps(tracker.loss, 7) / 7)
    print(f"wanted: a record in at most {wanted} copies")
    table.write(rows, options.csv)


def halves(model: Any) -> dict[str, list[str]]:
    names = [name for name, _ in model.named_parameters()]
    return {"first half": names[: len(names) // 2], "second half": names[len(names) // 2 :]}


if __name__ == "__main__":
    main()
