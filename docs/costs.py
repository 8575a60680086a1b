"""The networks -> medseg/models/zoo.json, what `medseg zoo` shows: facts, parameters and multiply-adds, counted. A minute.

python docs/costs.py
"""

from __future__ import annotations

import dataclasses
import json

from medseg.files import write_text
from medseg.models.listed import TABLE
from medseg.models.listing import count

if __name__ == "__main__":
    write_text(TABLE, json.dumps([dataclasses.asdict(line) for line in count(2)], indent=1, ensure_ascii=False) + "\n")
    print(TABLE)
