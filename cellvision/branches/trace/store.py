"""Traces in memory or mapped from an extraction: random reads of (channels, time) float32, NaN where unknown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.branches.trace.files import Block
from cellvision.core.errors import ConfigError
from cellvision.core.files import one_line

if TYPE_CHECKING:
    import pandas as pd

TRACE = "trace"  # the column of an extraction, and the channel of a file that names none


class Traces:
    """Chunks (n_i, channels, time) one after the other. Given a file, they are mapped anew in every process."""

    def __init__(self, chunks: list[NDArray[np.float32]], file: Path | None = None) -> None:
        self._chunks: list[NDArray[np.float32]] | None = chunks
        self.file = file
        self.starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])
        self.shape = tuple(chunks[0].shape[1:])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({"_chunks": None} if self.file else {})

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def chunks(self) -> list[NDArray[np.float32]]:
        if self._chunks is None and self.file is not None:
            self._chunks = [values for values, _ in mapped(self.file)]
        return self._chunks or []

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n,) rows -> (n, channels, time), a copy in the order asked for."""
        rows = np.asarray(rows, np.int64)
        which = np.searchsorted(self.starts, rows, side="right") - 1
        out = np.empty((len(rows), *self.shape), np.float32)
        for number in np.unique(which):
            here = which == number
            out[here] = self.chunks[number][rows[here] - self.starts[number]]
        return out


def mapped(path: Path) -> Iterable[tuple[NDArray[np.float32], Any]]:
    """(n, 1, time) of each record batch, lying in the file, and the batch."""
    import pyarrow as pa

    if not path.is_file():
        raise ConfigError(f"no traces at {path}; extract them again")
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            batch.validate(full=True)
            lists = batch.column(batch.schema.get_field_index(TRACE))
            points = lists.type.list_size
            values = lists.values.to_numpy(zero_copy_only=True).reshape(-1, 1, points)
            yield values[lists.offset : lists.offset + len(lists)], batch
    except (pa.ArrowException, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} holds no traces of an extraction ({one_line(error)}); extract them again") from None


def from_extraction(path: Path) -> tuple[Traces, pd.DataFrame]:
    """The traces of `traces.arrow`, mapped, and the other columns as a table."""
    import pyarrow as pa

    parts = list(mapped(path))
    if not parts:
        raise ConfigError(f"{path} holds no traces; extract them again")
    try:
        names = [name for name in parts[0][1].schema.names if name != TRACE]
        table = pa.Table.from_batches([batch.select(names) for _, batch in parts]).to_pandas()
    except (pa.ArrowException, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} holds no traces of an extraction ({one_line(error)}); extract them again") from None
    return Traces([values for values, _ in parts], path), table


def collected(blocks: Iterable[Block]) -> tuple[Traces, pd.DataFrame]:
    """All blocks in memory, shorter traces filled with NaN at their end, and their columns as a table."""
    import pandas as pd

    every = [block for block in blocks if len(block.values)]
    tables = [
        pd.DataFrame({name: _column(value) for name, value in block.columns.items()}, index=range(len(block.values)))
        for block in every
    ]
    return Traces([padded(every)[:, None]]), pd.concat(tables, ignore_index=True)


def _column(value: Any) -> Any:
    return list(value) if isinstance(value, np.ndarray) and value.ndim > 1 else value


def padded(blocks: list[Block], points: int = 0) -> NDArray[np.float32]:
    """(cells of all blocks, time): as long as the longest, or `points` where that is more."""
    points = max([points, *(block.values.shape[1] for block in blocks)])
    if all(block.values.shape[1] == points for block in blocks):
        return np.concatenate([block.values for block in blocks])
    out = np.full((sum(len(block.values) for block in blocks), points), np.nan, np.float32)
    start = 0
    for block in blocks:
        out[start : start + len(block.values), : block.values.shape[1]] = block.values
        start += len(block.values)
    return out
