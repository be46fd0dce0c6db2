"""`cellvision COMMAND …` and `python -m cellvision COMMAND …`: names the command, then hands over to its module."""

from __future__ import annotations

import sys
from typing import NoReturn

from cellvision import __version__
from cellvision.core import config
from cellvision.core.cli import main
from cellvision.core.progress import say
from cellvision.core.signals import leave

COMMANDS = {
    "simulate": "paint images of four groups, or simulate calcium traces, with known truth",
    "segment": "raw images -> single cells: masks, crops and tables",
    "train_segmenter": "fine-tune nano on a few corrected masks",
    "extract": "HDF5 files of traces -> one Arrow table, with a preview",
    "plan": "units, duplicates, folds and what may be claimed",
    "pretrain": "learn an encoder from unlabelled items",
    "embed": "features of every item from an encoder, with kNN and linear probes",
    "finetune": "train a classifier on weak or true labels, tested on unseen units",
    "predict": "use a trained bundle on new images or items",
    "ablate": "compare strategies over folds and seeds at equal budgets",
    "study": "a raw folder in, a report out: all of it",
    "cluster": "clusters, projections and markers of cells or other items",
    "importance": "features a plain model relies on, on unseen units, and how stable they are",
    "report": "one HTML page about a run",
    "export": "cells for QuPath, CellProfiler, Fiji and Cellpose",
    "fetch": "official Cellpose weights, checked against their hash",
    "doctor": "is this installation sound?",
}


def dispatch(argv: list[str] | None = None) -> int:
    """`cellvision COMMAND …`: name the command, then hand over."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        listing = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
        print(f"usage: cellvision COMMAND [options]\n\n{listing}\n\ncellvision COMMAND --help lists its options.")
        return 0 if arguments else 4
    if arguments[0] in ("-V", "--version"):
        print(__version__)
        return 0
    if arguments[0] not in COMMANDS:
        say(f"cellvision: {config.unknown_key(arguments[0], list(COMMANDS)).replace('key', 'command')}")
        return 4
    return main(arguments[0], arguments[1:])


def command() -> NoReturn:
    """What the shell calls."""
    leave(dispatch())


if __name__ == "__main__":
    command()
