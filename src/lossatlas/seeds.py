"""Randomness by name: a seed is a hash of named axes, so adding an arm or a member moves no other number."""

import hashlib
import json


def seed(*axes: str | int | float) -> int:
    """A 63-bit seed for the cell named by `axes`, e.g. `seed("mli", "digits", "order", 3)`.

    The same axes give the same seed on every machine and Python version; the order of the axes matters.
    """
    name = json.dumps(axes, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
