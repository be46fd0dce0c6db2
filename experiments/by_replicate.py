"""Folds by replicate instead of by field: r1 is fold 0, r2 is fold 1; the units stay the fields.

python experiments/by_replicate.py runs/fields/splits.csv runs/replicates.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

from cellvision.evidence.splits import Splits, read


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    table = read(source).table
    Splits(table.assign(fold=(table["source_id"].str[:2] == "r2").astype(int))).write(target)


if __name__ == "__main__":
    main()
