"""The lowest eigenvalue of a loss's Hessian, from Hessian-vector products alone."""

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from lossatlas import ensemble

TOLERANCE = 0.05  # of the eigenvalue: its sign and size are what is asked for
VECTORS = 60  # Lanczos vectors: so many products bring the lowest one out beside a few large ones


def lowest(problem, theta: Tensor, generator: np.random.Generator) -> float:
    """The lowest eigenvalue of the Hessian at theta (P,), by Lanczos' method from a random vector (ARPACK).

    NaN where it does not settle within four times `VECTORS` products.
    """

    def product(vector: np.ndarray) -> np.ndarray:
        direction = torch.as_tensor(vector).to(theta).view(1, -1)
        return ensemble.hessian_vector(problem, theta[None], direction)[0].cpu().double().numpy()

    dim = len(theta)
    operator = LinearOperator((dim, dim), matvec=product, dtype=np.float64)
    start, vectors = generator.standard_normal(dim), min(VECTORS, dim)
    options = {"which": "SA", "tol": TOLERANCE, "ncv": vectors, "maxiter": 4, "return_eigenvectors": False}
    try:
        return float(eigsh(operator, k=1, v0=start, **options)[0])
    except ArpackNoConvergence:
        return float("nan")
