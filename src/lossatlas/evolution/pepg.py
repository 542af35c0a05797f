"""Adapting sigma: the gradient of the smoothed loss with respect to the standard deviations of the perturbation.

PEPG with symmetric sampling (Sehnke et al. 2010, "Parameter-exploring policy gradients", section 3.3), for losses.
"""

import torch
from torch import Tensor


def sigma_gradient(z: Tensor, losses: Tensor, sigma: float | Tensor) -> Tensor:
    """An unbiased estimate (..., P) of d F_sigma / d sigma from mirrored directions z (..., m, P) and losses (..., n).

    mean over pairs of (mean loss of the pair - mean of the other pairs) (z² - 1) / sigma. On a quadratic its mean is
    sigma diag(H), so where the loss curves upwards sigma shrinks.
    """
    plus, minus = losses.chunk(2, dim=-1)
    pair = (plus + minus) / 2
    centred = (pair - pair.mean(-1, keepdim=True)) / (pair.shape[-1] - 1)
    return (centred[..., None, :] @ (z.square() - 1)).squeeze(-2) / sigma


def adapted(sigma: Tensor, gradient: Tensor, learning_rate: float, largest_change: float = 0.2) -> Tensor:
    """sigma (P,) after a step against the gradient; no entry changes by more than that share of itself."""
    step = (learning_rate * gradient).clamp(-largest_change * sigma, largest_change * sigma)
    return sigma - torch.nan_to_num(step)
