"""Safe mutation: perturb less where the outputs react more (Lehman et al. 2018, arXiv 1712.06563, section 3)."""

import torch
from torch import Tensor


def sensitivity(problem, theta: Tensor) -> Tensor:
    """Mean over outputs k of |J_k| (P,), J_k the derivative of output k summed over the rows, one output at a time.

    problem: has `logits(theta (1, P)) -> (1, rows, outputs)`.
    """
    theta = theta.detach()[None].requires_grad_()
    outputs = problem.logits(theta)[0].sum(0)
    rows = [torch.autograd.grad(output, theta, retain_graph=True)[0][0] for output in outputs]
    return torch.stack(rows).abs().mean(0)


def safe_sigma(sigma: float, reaction: Tensor, smallest: float = 0.01, largest: float = 5.0) -> Tensor:
    """sigma (P,) for a sensitivity (P,): sigma / clamp(sensitivity, smallest, largest), as in greydanus/evostrats."""
    return sigma / reaction.clamp(smallest, largest)
