"""The one gate of randomness: (run seed, epoch, draw position, purpose) -> a generator of its own.

No function here or elsewhere in medseg touches a global random state, except building a network, whose initialisers draw from
torch's global generator; `engine` restores it afterwards. Source of the idea: fastMRI seeds its masks from the file's name.
"""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(*identity: int | str) -> int:
    """A 63-bit seed from an identity; equal identities give equal seeds on every machine.

    >>> seed_of(0, 1, 2) == seed_of(0, 1, 2), seed_of(0, 1, 2) == seed_of(0, 12)
    (True, False)
    """
    text = "/".join(f"{type(part).__name__}:{part}" for part in identity)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(*identity: int | str) -> np.random.Generator:
    """A NumPy generator (PCG64) for an identity such as (run seed, epoch, draw position)."""
    return np.random.Generator(np.random.PCG64(seed_of(*identity)))
