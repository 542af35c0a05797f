"""Coloured textures from Perlin noise: an image data set that needs no files and can have any size."""

import torch
from torch import Tensor

from lossatlas.data import DataSet
from lossatlas.errors import LossAtlasError
from lossatlas.problems.perlin import PerlinField
from lossatlas.seeds import seed

NAME = "perlin_textures"
CONTRAST = 3.0  # radians of the palette a unit of noise
PHASES = (0.0, 2.0, 4.0)  # of red, green and blue, radians


def textures(side: int, octaves: int, rows: int, test_rows: int) -> DataSet:
    """Images (n, 3, side, side) in [0, 1], float32: periodic noise, shifted at random, through a cosine palette.

    The finest octave has half as many cells as the image has pixels. A pixel's colour is a function of one number,
    which no linear code can use. Labels are all 0. Raises `LossAtlasError` for a side that the octaves do not divide.
    """
    cells = side // 2
    if side % 2 or cells % 2 ** (octaves - 1) or cells // 2 ** (octaves - 1) < 2:
        raise LossAtlasError(
            f"textures of {side} pixels with {octaves} octaves: half of the side must be a multiple of 2^octaves"
        )
    train, test = _images(side, cells, octaves, "train", rows), _images(side, cells, octaves, "test", test_rows)
    labels = (torch.zeros(len(images), dtype=torch.int64) for images in (train, test))
    train_y, test_y = labels
    return DataSet(NAME, train, train_y, test, test_y, 1)


def _images(side: int, cells: int, octaves: int, part: str, rows: int) -> Tensor:
    field = PerlinField.named("composite", NAME, part, layers=range(rows), cells=cells, octaves=octaves)
    generator = torch.Generator().manual_seed(seed("composite", NAME, part, "shift"))
    noise, _ = field.shifted(cells * torch.rand(rows, 2, generator=generator)).dense(side // cells)
    angle = CONTRAST * noise[:, None] + torch.tensor(PHASES)[:, None, None]
    return (0.5 + 0.5 * torch.cos(angle)).float()
