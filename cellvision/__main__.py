"""`cellvision COMMAND …` and `python -m cellvision COMMAND …`: names the command, then hands over to its module."""

from __future__ import annotations

import sys
from typing import NoReturn

from cellvision import __version__
from cellvision.commandline.cli import main
from cellvision.core import config
from cellvision.core.progress import say
from cellvision.core.signals import leave

GROUPS = {
    "all of it": {
        "study": "a raw folder in, a report out: all of it",
        "report": "one HTML page about a run",
    },
    "files to items": {
        "segment": "raw images -> single cells: masks, crops and tables",
        "extract": "HDF5 files of traces -> one Arrow table, with a preview",
        "train_segmenter": "fine-tune nano on a few corrected masks",
        "fetch": "official Cellpose weights, checked against their hash",
        "export": "cells for QuPath, CellProfiler, Fiji and Cellpose",
    },
    "items to claims": {
        "plan": "units, duplicates, folds and what may be claimed",
        "pretrain": "learn an encoder from unlabelled items",
        "embed": "features of every item from an encoder, with kNN and linear probes",
        "finetune": "train a classifier on weak or true labels, tested on unseen units",
        "predict": "use a trained bundle on new images or items",
        "ablate": "compare strategies over folds and seeds at equal budgets",
    },
    "what is in the items": {
        "cluster": "clusters, projections and markers of cells or other items",
        "importance": "features a plain model relies on, on unseen units, and how stable they are",
    },
    "getting started": {
        "doctor": "is this installation sound?",
        "simulate": "paint images of four groups, or simulate calcium traces, with known truth",
        "completion": "a script that completes commands, flags and choices in your shell",
    },
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}


def first_screen() -> str:
    """Every command in its group."""
    longest = max(map(len, COMMANDS))
    groups = [
        "\n".join([f"{title}:", *(f"  {name:{longest}}  {text}" for name, text in group.items())])
        for title, group in GROUPS.items()
    ]
    start = "start with: cellvision study --raw IMAGES --out RUN   (IMAGES has a sub-folder for each group)"
    return "\n\n".join(
        [
            "usage: cellvision COMMAND [options]",
            start,
            *groups,
            "cellvision COMMAND --help lists the options of a command.",
        ]
    )


def dispatch(argv: list[str] | None = None) -> int:
    """`cellvision COMMAND …`: name the command, then hand over."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(first_screen())
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
