"""Two values, and grey steps: how values that are no ids become ids by their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from medseg.conventions.content import Content
from medseg.conventions.readings import ValueMap, mapped
from medseg.labels import LabelSet


def fit_most(group: Sequence[Content], labels: LabelSet) -> ValueMap | None:
    """The reading of all values, or failing that of those most files hold, so long as it covers more than half of the files."""
    times = Counter(value for content in group if len(content.values) <= labels.num_classes for value in content.values)
    values = [value for value, _ in sorted(times.items(), key=lambda item: (-item[1], item[0]))]
    values = values[: 2 * labels.num_classes]  # more are of damaged files
    while values:
        found = fit(sorted(values), labels)
        if found is not None and found.changes:
            covered = sum(set(content.values) <= set(found.table) for content in group)
            return found if 2 * covered > len(group) else None
        values.pop()
    return None


def fit(values: Sequence[int], labels: LabelSet) -> ValueMap | None:
    """The one reading of values that are no ids: two values of one class, or ids times a factor. None where there is none or two."""
    if labels.num_classes == 2:
        return two_valued(values, labels)
    return _factor(values, labels)


def two_valued(values: Sequence[int], labels: LabelSet) -> ValueMap | None:
    """The lower of two values as background, the other as the one class; a value alone stands beside 0. None for more values."""
    known = [0, *values] if len(values) == 1 and values[0] > 0 else list(values)
    if len(known) != 2 or known[0] < 0:
        return None
    return mapped("two_valued", {known[0]: 0, known[1]: 1}, labels)


def _factor(values: Sequence[int], labels: LabelSet) -> ValueMap | None:
    """Ids times a factor, or spread evenly from 0 to 255 with rounding; only where one reading fits."""
    steps = [value for value in values if value != 0]
    if len(steps) < 2 or steps[0] < 0 or len(steps) >= labels.num_classes:
        return None
    spread = _spread(steps, labels)
    factor = int(np.gcd.reduce(steps))
    readings = [f for f in range(2, factor + 1) if factor % f == 0 and steps[-1] // f < labels.num_classes]
    table = spread or ({value: value // readings[0] for value in steps} if len(readings) == 1 else None)
    return None if table is None else mapped("factor", {0: 0, **table}, labels)


def _spread(steps: Sequence[int], labels: LabelSet) -> dict[int, int] | None:
    """Value -> id for steps of 255 / (K - 1), rounded up or down; None where a value is no such step or two are the same."""
    unit = 255 / (labels.num_classes - 1)
    if unit < 3 or steps[-1] > 255:
        return None
    table = {value: round(value / unit) for value in steps}
    fits = all(abs(value - class_id * unit) < 1 for value, class_id in table.items()) and 0 not in table.values()
    return table if fits and len(set(table.values())) == len(table) else None
