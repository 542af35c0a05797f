"""The one place that chooses where to compute."""

import torch

from lossatlas.errors import LossAtlasError


def resolve(name: str) -> str:
    """`cpu` or `cuda` for the config's `device` (auto, cpu or cuda)."""
    if name == "cuda" and not torch.cuda.is_available():
        raise LossAtlasError("device: cuda, but torch sees no GPU here; set device to auto or cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
