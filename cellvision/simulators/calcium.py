"""A calcium wave over a small tissue: cells on a grid, one of them stimulated, coupled through gap junctions.

Each cell is the two-variable model of Li and Rinzel (1994, J. Theor. Biol. 166:461) in µM and s; IP3 spreads between
neighbours, decays, and is made anew where calcium is high, so that a wave can run on and dies out where it is weak.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SECONDS = 200.0  # of a trace
STEP = 0.05  # s, of the integration
REST = np.array([0.10, 0.82, 0.20])  # calcium µM, share of channels not inactivated, IP3 µM


@dataclass(frozen=True)
class Tissue:
    """Stimulus and coupling of one simulation file."""

    side: int  # cells along an edge
    stim: int  # number of the stimulated cell, row by row
    stim_mag: float  # µM/s of IP3 that the stimulated cell gets
    beta: float  # µM/s of IP3 a cell makes itself at high calcium
    kcross: float  # 1/s, exchange of IP3 between neighbours
    noise: float  # µM: sd of the measurement; the cells' own noise goes along with it

    def distance(self) -> NDArray[np.int64]:
        """(cells,) steps from neighbour to neighbour to the stimulated cell."""
        row, column = np.divmod(np.arange(self.side**2), self.side)
        return np.abs(row - row[self.stim]) + np.abs(column - column[self.stim])


def simulate(tissue: Tissue, samples: int, points: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(samples, cells, points) measured calcium. Every sample has its own cells, onset and length of the stimulus."""
    cells = tissue.side**2
    shape = (samples, cells)
    calcium, channel, ip3 = (np.full(shape, value) for value in REST)
    vary = rng.lognormal(0, 0.1, (4, samples, cells))  # cells differ: pump, production, decay, coupling
    onset, length = rng.uniform(5, 40, (samples, 1)), rng.uniform(10, 20, (samples, 1))  # s
    strength = tissue.stim_mag * rng.lognormal(0, 0.2, (samples, 1))
    hit = np.arange(cells) == tissue.stim
    out = np.empty((samples, cells, points))
    steps = np.linspace(0, SECONDS / STEP, points).round().astype(int)
    measured = 0
    for step in range(int(SECONDS / STEP) + 1):
        if measured < points and step == steps[measured]:
            out[:, :, measured] = calcium
            measured += 1
        time = step * STEP
        pulse = strength * hit * ((time >= onset) & (time < onset + length))
        calcium, channel, ip3 = _advance(tissue, (calcium, channel, ip3), vary, pulse, rng)
    return (out + rng.normal(0, tissue.noise, out.shape)).astype(np.float32)


def _advance(
    tissue: Tissue,
    state: tuple[NDArray, NDArray, NDArray],
    vary: NDArray[np.float64],
    pulse: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[NDArray, NDArray, NDArray]:
    """One Euler step of all cells; the noise of IP3 is Langevin's."""
    calcium, channel, ip3 = state
    opened = ip3 / (ip3 + 0.13) * calcium / (calcium + 0.08) * channel
    store = (2.0 - calcium) / 0.185
    flow = (6.0 * opened**3 + 0.11) * 0.185 * (store - calcium) - vary[0] * 0.9 * calcium**2 / (calcium**2 + 0.01)
    limit = 1.05 * (ip3 + 0.13) / (ip3 + 0.94)
    recovery = 0.2 * (limit - (calcium + limit) * channel)
    production = vary[1] * tissue.beta * calcium**2 / (calcium**2 + 0.16)
    exchange = _exchange(vary[3] * tissue.kcross, ip3, tissue.side)
    change = production + pulse - vary[2] * 0.15 * (ip3 - REST[2]) + exchange
    jitter = 0.5 * tissue.noise * np.sqrt(STEP) * rng.standard_normal(ip3.shape)
    return (
        np.clip(calcium + STEP * flow, 0, 2),
        np.clip(channel + STEP * recovery, 0, 1),
        np.clip(ip3 + STEP * change + jitter, 0, None),
    )


def _exchange(rate: NDArray[np.float64], ip3: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """(samples, cells): what flows in from the up to four neighbours, minus what flows out."""
    field, gain = ip3.reshape(-1, side, side), rate.reshape(-1, side, side)
    total = np.zeros_like(field)
    for axis in (1, 2):
        near, far = np.arange(side - 1), np.arange(1, side)
        flow = np.diff(field, axis=axis) * 0.5 * (np.take(gain, near, axis) + np.take(gain, far, axis))
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[axis] = (0, 1)
        total += np.pad(flow, pad)
        pad[axis] = (1, 0)
        total -= np.pad(flow, pad)
    return total.reshape(ip3.shape)
