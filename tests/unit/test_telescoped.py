"""The value of a composite: what is exact for every history, and what a closed loop adds up to."""

import math

import pytest
import torch

from lossatlas.composite import power_weights
from lossatlas.composite.telescoped import Telescope, undetached, values


def rosenbrock_pair(theta):
    return [(1 - theta[0]) ** 2 + 0 * theta[1], 10 * (theta[1] - theta[0] ** 2) ** 2]


def trajectory(reading, optimizer, q=1.0, constants=(0.0, 0.0), steps=60):
    """Positions under the weights ‖g‖^q, by backward through what the reading calls the loss."""
    theta = torch.tensor([-1.2, 1.0], requires_grad=True)
    step = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]([theta], lr=1e-3)
    telescope, path = Telescope(), []
    for _ in range(steps):
        losses = [part + c for part, c in zip(rosenbrock_pair(theta), constants, strict=True)]
        norms = torch.stack([torch.autograd.grad(part, theta, retain_graph=True)[0].norm() for part in losses])
        weights, losses = power_weights(norms, q), torch.stack(losses)
        value = telescope(losses, weights) if reading == "telescoped" else (weights.detach() * losses).sum()
        step.zero_grad()
        value.backward()
        step.step()
        path.append(theta.detach().clone())
    return torch.stack(path)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("q", [-1.0, 1.0, 2.0])
def test_detached_and_telescoped_move_alike_bit_for_bit(optimizer, q):
    detached, telescoped = (trajectory(reading, optimizer, q) for reading in ("detached", "telescoped"))
    assert torch.equal(detached, telescoped)
    assert (detached[-1] - detached[0]).norm() > 0.01


def test_constants_change_no_step_but_the_undetached_one():
    # 2^10 is exact beside values of the size of 1 only up to rounding, but gradients do not see it at all
    assert torch.equal(trajectory("telescoped", "adam"), trajectory("telescoped", "adam", constants=(1024.0, 0.0)))
    theta = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    plain = undetached(rosenbrock_pair, theta, 1.0)[1]
    shifted = undetached(lambda t: [rosenbrock_pair(t)[0] + 5, rosenbrock_pair(t)[1]], theta, 1.0)[1]
    assert (plain - shifted).norm() > 0.1


@pytest.mark.parametrize("q", [0.0, 1.0, 3.0, -1.0])
def test_the_undetached_gradient_has_the_hessian_vector_terms(q):
    """∇(Σ w L) = Σ w g + Σ L ∇w, ∇w_i = (1/Z)(q‖g_i‖^(q−2) H_i g_i − w_i Σ_j q‖g_j‖^(q−2) H_j g_j), in float64."""
    theta = torch.tensor([-0.7, 0.4], dtype=torch.float64)
    parts = [lambda t, i=i: rosenbrock_pair(t)[i] for i in range(2)]
    losses = torch.stack([part(theta) for part in parts])
    g = torch.stack([torch.func.grad(part)(theta) for part in parts])
    hessians = torch.stack([torch.func.hessian(part)(theta) for part in parts])
    norms = g.norm(dim=-1)
    z, w = norms.pow(q).sum(), power_weights(norms, q)
    turn = q * norms.pow(q - 2)[:, None] * (hessians @ g[..., None])[..., 0]
    slopes = (turn - w[:, None] * turn.sum(0)) / z
    value, found = undetached(rosenbrock_pair, theta, q)
    assert value.item() == pytest.approx((w * losses).sum().item(), rel=1e-12)
    assert (found - (w @ g + losses @ slopes)).abs().max() < 1e-9 * found.abs().max()


def test_the_value_is_the_weighted_sum_less_the_effect_of_the_weights():
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(30, 4, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(30, 4, 3, generator=generator, dtype=torch.float64)
    found = values(losses, weights)
    assert (found.weighted - found.reweighting.cumsum(0) - found.right).abs().max() < 1e-12
    cross = (weights.diff(dim=0) * losses.diff(dim=0)).sum(-1).cumsum(0)
    assert (found.right - found.left)[1:].sub(cross).abs().max() < 1e-12
    constant = values(losses, weights[:1].expand_as(weights))  # nothing to subtract where nothing is re-weighted
    assert (constant.right - constant.weighted).abs().max() < 1e-12
    assert constant.reweighting.abs().max() == 0
    shifted = values(losses + 7, weights)  # S moves by its start alone, C with the weights
    drift = (shifted.right - found.right) - 7 * weights[0].sum(-1)
    assert drift.abs().max() < 1e-10


def test_the_telescope_says_what_the_whole_history_says():
    generator = torch.Generator().manual_seed(1)
    losses, weights = torch.rand(2, 20, 3, generator=generator, dtype=torch.float64)
    telescope = Telescope()
    for _ in range(2):  # the second run after a reset shares nothing with the first
        found = torch.stack([telescope(loss, weight) for loss, weight in zip(losses, weights, strict=True)])
        assert (found - values(losses, weights).right).abs().max() < 1e-12
        telescope.reset()


def loop(corners, points):
    """S gained round a polygon, `points` steps a side, of L_1 = x²/2, L_2 = y with weights ∝ their norms."""
    t = torch.arange(points, dtype=torch.float64)[:, None] / points
    ends = torch.tensor(corners, dtype=torch.float64)
    sides = [a + t * (b - a) for a, b in zip(ends, ends.roll(-1, 0), strict=True)]
    x, y = torch.cat([*sides, ends[:1]]).unbind(-1)
    norms = torch.stack([x.abs(), torch.ones_like(x)], -1)
    found = values(torch.stack([x**2 / 2, y], -1), power_weights(norms, 1.0))
    return {name: (getattr(found, name)[-1] - found.weighted[0]).item() for name in ("left", "right", "middle")}


SQUARE, TRIANGLE = [(0, 0), (1, 0), (1, 1), (0, 1)], [(0, 0), (1, 0), (1, 1)]


# ω = (x|x| dx + dy)/(1 + |x|), dω = −sgn(x)/(1 + |x|)² dx∧dy; Green: −∫ dx/(1 + x)² and −∫ x dx/(1 + x)² over [0, 1]
@pytest.mark.parametrize(("corners", "green"), [(SQUARE, -0.5), (TRIANGLE, 0.5 - math.log(2))])
def test_the_value_does_not_come_back_on_a_closed_loop(corners, green):
    coarse, fine = (loop(corners, points) for points in (50, 100))
    errors = {name: (coarse[name] - green, fine[name] - green) for name in coarse}
    for name in ("left", "right"):
        assert errors[name][0] / errors[name][1] == pytest.approx(2, rel=0.05)  # first order in the step
    assert errors["left"][0] * errors["right"][0] < 0
    if corners == SQUARE:  # its two sides along x cancel, and along y the weights are constant
        assert max(map(abs, errors["middle"])) < 1e-12
    else:
        assert errors["middle"][0] / errors["middle"][1] == pytest.approx(4, rel=0.05)  # second order
