"""The command line that every study has: its claims as JSON, its numbers as a file, its figure."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

Main = Callable[..., dict[str, float]]


def answer(doc: str | None, main: Main, out: str, draw: Callable[[pd.DataFrame, Path], None] | None = None) -> None:
    """Run ``main(small=..., out=...)`` and print what it claims; ``out`` says what is written, ``draw`` draws that."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--small", action="store_true", help="a smaller version, as the tests run it")
    parser.add_argument("--out", type=Path, help=out)
    if draw:
        parser.add_argument("--figure", type=Path, help="SVG, drawn from --out")
    options = parser.parse_args()
    if draw and options.figure and not options.out:
        parser.error("--figure is drawn from --out: give that too")
    print(json.dumps(main(small=options.small, out=options.out), indent=2))
    if draw and options.figure:
        draw(pd.read_csv(options.out), options.figure)
