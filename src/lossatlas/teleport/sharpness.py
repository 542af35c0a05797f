"""The largest eigenvalue of the loss's Hessian at each member of an ensemble."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lossatlas import ensemble


def largest_eigenvalue(problem, theta: Tensor, seeds: Sequence[int], steps: int = 20) -> Tensor:
    """lambda_max (k,) at theta (k, P) by Lanczos with full reorthogonalisation, one start vector a seed.

    A lower bound that `steps` Hessian-vector products make; exact from `steps` = P on. NaN where the Hessian is not
    finite.
    """
    steps = min(steps, theta.shape[-1])
    draws = [torch.randn(theta.shape[-1], generator=torch.Generator().manual_seed(s), dtype=theta.dtype) for s in seeds]
    v = torch.stack(draws).to(theta.device)
    basis = [v / v.norm(dim=-1, keepdim=True)]
    columns = []
    for _ in range(steps):
        w = ensemble.hessian_vector(problem, theta, basis[-1])
        Q = torch.stack(basis, 1)
        columns.append((Q @ w[..., None])[..., 0])
        for _ in range(2):  # twice is enough (Parlett)
            w = w - (Q.mT @ (Q @ w[..., None]))[..., 0]
        length = w.norm(dim=-1, keepdim=True)
        # an invariant subspace is exhausted: go on with zeros, which add eigenvalue 0
        basis.append(torch.where(length > 0, w / length, 0))
    T = theta.new_zeros(len(theta), steps, steps)
    for j, column in enumerate(columns):
        T[:, : j + 1, j] = column
        T[:, j, : j + 1] = column
    finite = T.isfinite().all(-1).all(-1)
    values = torch.linalg.eigvalsh(torch.where(finite[:, None, None], T, 0))[:, -1]
    return torch.where(finite, values, torch.nan)
