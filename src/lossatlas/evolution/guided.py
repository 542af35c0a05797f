"""Gradients from losses with a guide: a surrogate gradient, or the estimate of the step before."""

import math

import torch
from torch import Tensor

from lossatlas import ensemble
from lossatlas.errors import LossAtlasError


def guided_directions(z: Tensor, y: Tensor, basis: Tensor, alpha: float) -> Tensor:
    """sqrt(alpha / P) z + sqrt((1 - alpha) / k) Q y (..., m, P), of expected squared length 1 (Guided ES, eq. 2).

    z (..., m, P) and y (..., m, k) are both N(0, 1): a constant in place of y would move all perturbations the same
    way. basis: Q (..., P, k), orthonormal columns that span the surrogate gradients. alpha 1 ignores them.
    """
    if not 0 <= alpha <= 1:
        raise LossAtlasError(f"alpha is {alpha:g}: the share of the whole space lies between 0 and 1")
    dim, k = basis.shape[-2:]
    return math.sqrt(alpha / dim) * z + math.sqrt((1 - alpha) / k) * (y @ basis.mT)


def guided_estimate(steps: Tensor, losses: Tensor, sigma: float, beta: float = 1.0) -> Tensor:
    """mean over pairs of beta / 2 sigma² (f+ - f-) eps (..., P), eps = sigma `steps` (..., m, P); losses (..., 2m).

    Source: Maheswaranathan et al. 2019, arXiv 1806.10230, algorithm 1. Its mean is beta C g with C the covariance
    of `steps`, a direction that is biased towards the guide on purpose.
    """
    plus, minus = losses.chunk(2, dim=-1)
    weights = beta * (plus - minus) / losses.shape[-1]
    return (weights[..., None, :] @ steps).squeeze(-2) / sigma


def basis_of(surrogates: Tensor) -> Tensor:
    """An orthonormal basis (..., P, k) of surrogate gradients (..., k, P)."""
    return torch.linalg.qr(surrogates.mT).Q


def past_descent(problem, theta: Tensor, previous: Tensor | None, k: int, sigma: float, z: Tensor) -> Tensor:
    """The gradient's projection (P,) on the previous estimate (P,) and k fresh directions z (k, P).

    Central differences of width sigma along an orthonormal basis of them, with the previous estimate first
    (Meier et al. 2019, arXiv 1910.05268, section 3): 2 (k + 1) losses, or 2k in the first step.
    """
    spanned = z[:k] if previous is None else torch.cat([previous[None], z[:k]])
    q = basis_of(spanned).mT
    plus, minus = ensemble.loss(problem, torch.cat([theta + sigma * q, theta - sigma * q])).chunk(2)
    return ((plus - minus) / (2 * sigma)) @ q
