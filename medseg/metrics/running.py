"""Means over cases that come one by one, in constant memory."""

from __future__ import annotations

import numpy as np


class RunningMeans:
    """The means of an array's elements over the cases in which each is defined (not NaN).

    Sums are compensated (Neumaier 1974), so a hundred thousand cases lose no digit that is printed.
    """

    def __init__(self, *shape: int) -> None:
        self._sum, self._lost = np.zeros(shape), np.zeros(shape)
        self.n = np.zeros(shape, np.int64)

    def add(self, values: np.ndarray) -> None:
        """One more case, float64 of the shape."""
        defined = ~np.isnan(values)
        value = np.where(defined, values, 0.0)
        total = self._sum + value
        larger = np.abs(self._sum) >= np.abs(value)
        self._lost += np.where(larger, (self._sum - total) + value, (value - total) + self._sum)
        self._sum = total
        self.n += defined

    @property
    def mean(self) -> np.ndarray:
        """NaN where no case had a value."""
        return np.divide(self._sum + self._lost, self.n, out=np.full(self.n.shape, np.nan), where=self.n > 0)
