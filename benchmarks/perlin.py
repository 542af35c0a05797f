"""Perlin noise with gradients: dense against perlin-numpy and pyfastnoiselite, values only; scattered against autograd.

pyfastnoiselite hashes its lattice, so its field cannot be made the same as ours: that ratio compares speed alone.
"""

import math

import numpy as np
import torch
from perlin_numpy import generate_perlin_noise_2d
from pyfastnoiselite.pyfastnoiselite import FastNoiseLite, NoiseType
from torch import Tensor

from benchmarks.measure import Speed, must_agree, paired_seconds
from lossatlas.problems import PerlinField

CELLS, SAMPLES = 16, 32  # 512 points a side
LAYERS, POINTS = 16, 4096


def same_field() -> PerlinField:
    """The field whose lattice is what perlin-numpy draws from the seed 0."""
    angles = 2 * np.pi * np.random.default_rng(0).uniform(size=(CELLS + 1, CELLS + 1))
    lattice = torch.as_tensor(np.stack([np.cos(angles), np.sin(angles)]), dtype=torch.float32)
    return PerlinField((lattice,), 2, CELLS, periodic=False)


def dense(repeats: int = 15) -> Speed:
    field, side = same_field(), CELLS * SAMPLES

    def theirs() -> Tensor:
        return torch.as_tensor(generate_perlin_noise_2d((side, side), (CELLS, CELLS), rng=np.random.default_rng(0)))

    claim = f"dense {side}², value and gradient, vs perlin-numpy's value"
    must_agree(field.dense(SAMPLES)[0] * math.sqrt(2), theirs(), claim)
    seconds = paired_seconds(lambda: field.dense(SAMPLES), theirs, repeats)
    return Speed(claim, tuple(peer / mine for mine, peer in seconds), 1.0)


def against_fastnoise(repeats: int = 15) -> Speed:
    field, peer = same_field(), FastNoiseLite(0)
    peer.noise_type, peer.frequency = NoiseType.NoiseType_Perlin, 1.0
    axis = np.arange(CELLS * SAMPLES, dtype=np.float32) / SAMPLES
    points = np.stack([a.ravel() for a in np.meshgrid(axis, axis)]).astype(np.float32)
    claim = f"dense {CELLS * SAMPLES}², value and gradient, vs pyfastnoiselite's value"
    seconds = paired_seconds(lambda: field.dense(SAMPLES), lambda: peer.gen_from_coords(points), repeats)
    return Speed(claim, tuple(theirs / mine for mine, theirs in seconds), 1.0)


def scattered(layers: int = LAYERS, points: int = POINTS, repeats: int = 7) -> Speed:
    """All layers with gradients at once, against one backward pass for each layer."""
    field = PerlinField.named("benchmark", layers=list(range(layers)), cells=CELLS)
    singles = [PerlinField.named("benchmark", layers=i, cells=CELLS) for i in range(layers)]
    x = torch.rand(2, points, generator=torch.Generator().manual_seed(0)) * CELLS

    def ours() -> Tensor:
        return field.at(x)[1]

    def theirs() -> Tensor:
        found = []
        for single in singles:
            theta = x.mT.clone().requires_grad_()
            found.append(torch.autograd.grad(single(theta).sum(), theta)[0].mT)
        return torch.stack(found)

    claim = f"scattered, {layers} layers with gradients at {points} points, vs {layers} autograd passes"
    must_agree(ours(), theirs(), claim)
    seconds = paired_seconds(ours, theirs, repeats)
    return Speed(claim, tuple(peer / mine for mine, peer in seconds), 5.0)


def speeds():
    yield dense()
    yield against_fastnoise()
    yield scattered()
