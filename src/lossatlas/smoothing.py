"""Closed forms of evolution strategies and unrolled problems. Without torch: figures and measurements load it too."""

import math

import numpy as np

# --- evolution strategies: P parameters, gradient g, Hessian H, perturbations sigma z with z ~ N(0, I_P) --------------


def es_cosine(effective: float, dim: int) -> float:
    """The cosine of an estimate and g: sqrt(m / (m + P + 1)) for m `effective` independent directions.

    On a linear function the estimate is (1/m) sum (g.z) z with E|est|² = |g|² (1 + (P + 1) / m) and E est.g = |g|².
    """
    return math.sqrt(effective / (effective + dim + 1))


def es_effective_count(n: int, curvature_noise: float = 0.0, mirrored: bool = False, ranks: bool = False) -> float:
    """Independent directions that n losses are worth: n / (1 + kappa) iid, n / 2 mirrored, 3/pi of it with ranks.

    The even part of an iid sample is noise of kappa times the odd part's variance; pairs cancel it exactly. Ranks of
    normal losses keep 3/pi: E[(Phi(z) - 1/2) z] = 1 / (2 sqrt pi) against the variance 1/12. With kappa it is
    approximate, since an even part makes the losses skew.
    """
    count = n / 2 if mirrored else n / (1 + curvature_noise)
    return count * 3 / math.pi if ranks else count


def es_evaluations(cosine: float, dim: int) -> float:
    """iid losses for a cosine on a linear function of many parameters: P c² / (1 - c²). The inverse of `es_cosine`."""
    return dim * cosine**2 / (1 - cosine**2)


def curvature_noise(sigma: float, gradient_norm: float, hessian_norm: float) -> float:
    """kappa = sigma² |H|_F² / 2|g|²: Var(sigma² zᵀHz / 2) = sigma⁴ |H|_F² / 2 over Var(sigma g.z) = sigma² |g|²."""
    return sigma**2 * hessian_norm**2 / (2 * gradient_norm**2)


def crossover_sigma(gradient_norm: float, hessian_norm: float) -> float:
    """sqrt(2) |g| / |H|_F, where kappa = 1: n / (1 + kappa) iid directions are as good as n / 2 mirrored ones."""
    return math.sqrt(2) * gradient_norm / hessian_norm


def pair_variance(dim: int, gradient_norm: float) -> float:
    """Trace of the covariance of (g.z) z, one mirrored pair on a quadratic: (P + 1) |g|²; m pairs divide it by m."""
    return (dim + 1) * gradient_norm**2


def rank_direction_norm(dim: int, directions: int) -> float:
    """Length of the mean of rank times z over M independent directions: sqrt(P / 12 M), whatever the gradient's."""
    return math.sqrt(dim / (12 * directions))


def subspace_cosine2(k: int, dim: int) -> float:
    """E c² of a gradient and its projection on k random orthonormal directions: k / P."""
    return k / dim


def memory_cosine2(cosine2: float, k: int, dim: int) -> float:
    """E c² after a step of past descent: c² + (1 - c²) k / (P - 1), k fresh directions beside the last estimate."""
    return cosine2 + (1 - cosine2) * k / (dim - 1)


def ripple_attenuation(sigma: float, wavelength: float) -> float:
    """What Gaussian smoothing leaves of cos(2 pi x / wavelength): exp(-2 pi² sigma² / wavelength²)."""
    return math.exp(-2 * (math.pi * sigma / wavelength) ** 2)


def rastrigin_smoothed(x, sigma: float):
    """One coordinate of the smoothed Rastrigin function: x² + sigma² + 10 - 10 exp(-2 pi² sigma²) cos 2 pi x.

    x: an array.
    """
    return x**2 + sigma**2 + 10 - 10 * ripple_attenuation(sigma, 1.0) * np.cos(2 * math.pi * np.asarray(x))


# Convex everywhere iff 40 pi² exp(-2 pi² sigma²) <= 2, the least second derivative being 2 minus the left side.
RASTRIGIN_CONVEX_SIGMA = math.sqrt(math.log(20 * math.pi**2) / (2 * math.pi**2))


# --- unrolled problems

INFLUENCE_SIGNS = np.where(np.arange(23) < 10, 1.0, -1.0)  # v: +1 on the first 10 of 23 coordinates, else -1


def influence_slope(steps: int) -> float:
    """d s_0 / d theta after `steps` steps of influence balancing: the first entry of sum_{j < steps} A^j v.

    A = I/2 + 1/2 on the superdiagonal. Truncated gradients know this slope only as far as their window is long; in the
    limit it is ((I - A)^-1 v)_0 = 2 sum(v) = -6, while one step gives +1 (after Tallec and Ollivier 2017).
    """
    total, term = 0.0, INFLUENCE_SIGNS
    for _ in range(steps):
        total, term = total + term[0], _influence_matrix_times(term)
    return float(total)


def influence_state(theta, steps: int):
    """s_0 after `steps` steps from s = 1: (A^steps 1)_0 + theta influence_slope(steps)."""
    free = np.ones(len(INFLUENCE_SIGNS))
    for _ in range(steps):
        free = _influence_matrix_times(free)
    return free[0] + theta * influence_slope(steps)


def influence_optimum() -> float:
    """The theta for which the stationary s_0 is 1: 1 / (2 sum(v)) = -1/6."""
    return 1 / (2 * float(INFLUENCE_SIGNS.sum()))


def influence_turn() -> int:
    """The shortest window whose slope has the right sign."""
    steps = 1
    while influence_slope(steps) > 0:
        steps += 1
    return steps


def _influence_matrix_times(vector):
    return 0.5 * (vector + np.append(vector[1:], 0.0))
