"""Hand-made numbers of traces, each from its own trace alone: nothing is fitted here."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

QUANTILES = (5, 25, 50, 75, 95)
LAGS = (1, 5, 20)


def summary(traces: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, channels, time) -> (n, channels * 24): level, spread, shape, timing, peaks and memory of every channel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a channel without a known point has NaN for its numbers
        return np.concatenate([_channel(traces[:, number].astype(np.float64)) for number in range(traces.shape[1])], 1)


def _channel(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """(n, time) -> (n, 24)."""
    time = np.arange(values.shape[1], dtype=float)
    mean, std = np.nanmean(values, 1), np.nanstd(values, 1)
    centred = (values - mean[:, None]) / np.where(std > 0, std, 1)[:, None]
    filled = np.nan_to_num(values, nan=-np.inf)
    top, lowest = filled.max(1), np.nanmin(values, 1)
    half = (top + lowest) / 2
    above = filled >= half[:, None]
    steps = np.diff(values, axis=1)
    observed = np.isfinite(values)
    moment = np.where(observed, time, np.nan)
    columns = [
        mean, std, *np.nanpercentile(values, QUANTILES, axis=1), top, lowest,
        np.nanmean(centred**3, 1), np.nanmean(centred**4, 1),
        filled.argmax(1), above.argmax(1), above.sum(1),
        np.nanmean(centred * (moment - np.nanmean(moment, 1)[:, None]), 1),
        np.nanmean(np.abs(steps), 1), np.nanstd(steps, 1), np.nanmax(steps, 1), np.nanmin(steps, 1),
        peaks(centred), *(_memory(centred, lag) for lag in LAGS), np.nansum(np.abs(centred) > 2, 1),
    ]  # fmt: skip
    return np.stack(columns, 1).astype(np.float32)


def _memory(centred: NDArray[np.float64], lag: int) -> NDArray[np.float64]:
    """(n,) autocorrelation at a lag; 0 where the trace is shorter."""
    if lag >= centred.shape[1]:
        return np.zeros(len(centred))
    return np.nanmean(centred[:, lag:] * centred[:, :-lag], 1)


def peaks(centred: NDArray[np.float64], width: int = 5) -> NDArray[np.float64]:
    """(n,) maxima of the smoothed trace more than half a deviation above its mean."""
    kernel = np.ones(min(width, centred.shape[1]))
    smooth = np.stack([np.convolve(row, kernel / len(kernel), "same") for row in np.nan_to_num(centred)])
    middle = smooth[:, 1:-1]
    return ((middle > smooth[:, :-2]) & (middle >= smooth[:, 2:]) & (middle > 0.5)).sum(1).astype(float)


def ends(traces: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, channels, time) -> (n, 3): where the trace begins and ends and how much is known - nothing of its values."""
    observed = np.asarray(np.isfinite(traces).any(axis=1))
    points = observed.shape[1]
    return np.stack([observed.argmax(1), points - observed[:, ::-1].argmax(1), observed.sum(1)], 1).astype(np.float32)
