"""CAGrad's two-objective toy (Liu et al. 2021, the released toy.py), in numpy: its losses, ways to weigh two gradients
in closed form, and the paths of Adam."""

import numpy as np

STARTS = np.array([[-8.5, -5.0], [-8.5, 7.5], [9.0, 9.0]])  # lower left, upper left, upper right
METHODS = ("mean", "MGDA", "PCGrad", "CAGrad", "q=1", "q=-1")
READ_OFF = {  # end x1 of the animation, in the order of STARTS; None: stuck in the valley near (±5, 2–3.5)
    "MGDA": (-7.0, -3.3, 3.3),
    "PCGrad": (-6.6, -2.2, 2.7),
    "CAGrad": (0.0, 0.0, 0.0),
    "mean": (0.0, None, None),
}


def two_losses(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CAGrad's toy: losses (..., 2) and their gradients (..., 2, 2) at x (..., 2), by hand."""
    x1, x2 = x[..., 0], x[..., 1]
    t, half = np.tanh(x2), np.tanh(x2 / 2)
    c1, c2, turn = np.maximum(half, 0), np.maximum(-half, 0), (1 - half**2) / 2
    dc1, dc2 = np.where(x2 > 0, turn, 0), np.where(x2 < 0, -turn, 0)
    losses, slopes = [], []
    for u, sign, centre in (((-x1 - 7) / 2 + t, 1, 7), ((-x1 + 3) / 2 - t + 2, -1, -7)):
        size = np.maximum(np.abs(u), 5e-6)
        inverse = np.where(np.abs(u) > 5e-6, 1 / np.where(u == 0, 1, u), 0)
        a, da1, da2 = np.log(size) + 6, -inverse / 2, sign * (1 - t**2) * inverse
        b = ((-x1 + centre) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
        db1, db2 = (x1 - centre) / 5, 0.02 * (x2 + 8)
        losses.append(c1 * a + c2 * b)
        slopes.append(np.stack([c1 * da1 + c2 * db1, dc1 * a + c1 * da2 + dc2 * b + c2 * db2], -1))
    return np.stack(losses, -1), np.stack(slopes, -2)


def inner_products(g: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The products (...) of the first of two gradients g (..., 2, d) with itself, of the second, and of both."""
    a, b = g[..., 0, :], g[..., 1, :]
    return (a * a).sum(-1), (b * b).sum(-1), (a * b).sum(-1)


def two_weights(method: str, aa: np.ndarray, bb: np.ndarray, ab: np.ndarray, c: float = 0.5) -> np.ndarray:
    """Weights (..., 2) of two gradients in closed form, from their inner products (...)."""
    tiny = 1e-300
    if method == "mean":
        return np.full((*aa.shape, 2), 0.5)
    if method.startswith("q="):
        powers = np.sqrt(np.stack([aa, bb], -1)).clip(1e-150) ** float(method[2:])
        return powers / powers.sum(-1, keepdims=True)
    if method == "MGDA":
        share = np.clip((bb - ab) / np.maximum(aa + bb - 2 * ab, tiny), 0, 1)
        return np.stack([share, 1 - share], -1)
    if method == "PCGrad":
        conflict = np.minimum(ab, 0)
        return np.stack([1 - conflict / np.maximum(aa, tiny), 1 - conflict / np.maximum(bb, tiny)], -1)
    # CAGrad: w = (s, 1 − s) minimises p s + r √(A s² + B s + C), a quadratic equation for its stationary point
    size = np.sqrt(np.maximum(aa + bb + 2 * ab, 0)) / 2
    p, r = ((aa + ab) - (bb + ab)) / 2, c * size
    square, linear, constant = aa + bb - 2 * ab, 2 * (ab - bb), bb
    rest = np.maximum(constant - linear**2 / np.maximum(4 * square, tiny), 0)
    slack = r**2 * square - p**2
    inner = np.sqrt(p**2 * rest / np.maximum(square * np.where(slack > 0, slack, 1), tiny))
    offset = np.where(slack > 0, -np.sign(p) * inner, -np.sign(p) * np.inf)
    s = np.clip(offset - linear / np.maximum(2 * square, tiny), 0, 1)
    length = np.sqrt(np.maximum(square * s**2 + linear * s + constant, tiny))
    return (0.5 + (r / length)[..., None] * np.stack([s, 1 - s], -1)) / (1 + c)


def cagrad_paths(steps: int, kept: int = 400) -> np.ndarray:
    """Positions (methods, starts, kept + 1, 2) of Adam (rate 1e-3) along each method's direction, evenly kept."""
    x = np.repeat(STARTS[None], len(METHODS), 0)
    first, second, path = np.zeros_like(x), np.zeros_like(x), []
    every = max(1, steps // kept)
    for step in range(1, steps + 1):
        if (step - 1) % every == 0:
            path.append(x.copy())
        _, g = two_losses(x)
        products = zip(METHODS, *inner_products(g), strict=True)
        weights = np.stack([two_weights(name, *of_method) for name, *of_method in products])
        direction = (weights[..., None] * g).sum(-2)
        first += 0.1 * (direction - first)
        second += 0.001 * (direction**2 - second)
        x = x - 1e-3 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return np.stack([*path, x], 2)
