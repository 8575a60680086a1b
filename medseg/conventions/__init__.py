"""By which convention does a mask file write its classes? Ids, black and white, grey steps, a palette's colours, RGB colours.

A file alone often cannot say: one that shows only 0 and 85 may be of a set of 0, 85, 170 and 255. So each file is boiled down to
its `Content`, and `decide` judges the whole set. What is not sure is refused with a reason, never guessed.

    content -> readings -> steps -> blur -> colours -> values -> deciding    each imports only from those before it;
                                                       converting            applies what was decided
"""

from __future__ import annotations

from medseg.conventions.content import BLOCK, Content, FileKind, content_of, packed, reads_as_stored, stored_values
from medseg.conventions.converting import convert, look_up, snap
from medseg.conventions.deciding import classify, decide
from medseg.conventions.readings import Kind, Refusal, ValueMap
from medseg.conventions.values import white_is_open

__all__ = [
    "BLOCK",
    "Content",
    "FileKind",
    "Kind",
    "Refusal",
    "ValueMap",
    "classify",
    "content_of",
    "convert",
    "decide",
    "look_up",
    "packed",
    "reads_as_stored",
    "snap",
    "stored_values",
    "white_is_open",
]
