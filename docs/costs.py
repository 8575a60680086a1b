"""The networks -> medseg/models/costs.json, what `medseg zoo` shows: parameters and multiply-adds, counted. A minute.

python docs/costs.py
"""

from __future__ import annotations

import dataclasses

from medseg.files import write_json
from medseg.models.listing import COUNTED, count

if __name__ == "__main__":
    write_json(COUNTED, {name: dataclasses.asdict(cost) for name, cost in count(2).items()})
    print(COUNTED)
