"""Safe mutation: perturb less where the outputs react more (Lehman et al. 2018, arXiv 1712.06563, section 3)."""

import torch
from torch import Tensor


def sensitivity(problem, theta: Tensor) -> Tensor:
    """Mean over outputs k of |J_k| (P,), J_k the derivative of output k summed over the rows, one output at a time.

    problem: has `logits(theta (k, P)) -> (k, rows, outputs)`. Each output is derived in a copy of its own, so that one
    backward pass serves all.
    """
    outputs = problem.logits(theta.detach()[None]).shape[-1]
    copies = theta.detach().expand(outputs, -1).contiguous().requires_grad_()
    own = problem.logits(copies).sum(1).diagonal()
    (slopes,) = torch.autograd.grad(own.sum(), copies)
    return slopes.abs().mean(0)


def safe_sigma(sigma: float, reaction: Tensor, smallest: float = 0.01, largest: float = 5.0) -> Tensor:
    """sigma (P,) for a sensitivity (P,): sigma / clamp(sensitivity, smallest, largest), as in greydanus/evostrats."""
    return sigma / reaction.clamp(smallest, largest)
