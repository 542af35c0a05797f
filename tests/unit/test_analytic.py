import itertools
import math

import pytest
import torch
from scipy import integrate, optimize

from lossatlas.errors import LossAtlasError
from lossatlas.problems import (
    Booth,
    CurvyValley,
    DoubleWell,
    Eggcarton,
    MuellerBrown,
    Quadratic,
    Rastrigin,
    Ring,
    Rosenbrock,
)

F64 = torch.float64


def random_spd(dim: int) -> torch.Tensor:
    root = torch.randn(dim, dim, generator=torch.Generator().manual_seed(1), dtype=F64)
    return root @ root.T + torch.eye(dim, dtype=F64)


PROBLEMS = [
    Rosenbrock(),
    Booth(),
    Rastrigin(dim=3),
    MuellerBrown(),
    DoubleWell(),
    Eggcarton(),
    CurvyValley(),
    Ring(),
    Quadratic(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 0.0, -1.0])),
    Quadratic(random_spd(3)),
]
by_name = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: type(p).__name__)


def points(problem, *shape: int) -> torch.Tensor:
    """Random points well inside the region where each surface varies."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, problem.dim, generator=generator, dtype=F64) * 0.7


def slope(problem, theta: torch.Tensor) -> torch.Tensor:
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(problem(theta).sum(), theta)[0]


def hessian_signs(problem, theta: torch.Tensor) -> tuple[int, ...]:
    spectrum = torch.linalg.eigvalsh(torch.autograd.functional.hessian(problem, theta))
    return tuple(spectrum.sign().int().tolist())


@by_name
def test_gradient_and_curvature_agree_with_finite_differences(problem):
    theta = points(problem, 4).requires_grad_()
    assert torch.autograd.gradcheck(problem, theta)  # torch's own float64 defaults: step 1e-6, relative 1e-3
    assert torch.autograd.gradgradcheck(problem, theta)


@by_name
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=str)
def test_a_batch_equals_a_loop(problem, shape):
    theta = points(problem, *shape)
    losses = problem(theta)
    assert losses.shape == shape
    one_by_one = [problem(theta[index]) for index in itertools.product(*map(range, shape))]
    # 1e-12: a few roundings of float64, since a sum may be taken in another order
    torch.testing.assert_close(losses.flatten(), torch.stack(one_by_one), rtol=1e-12, atol=1e-12)


@by_name
def test_dtype_follows_the_parameters(problem):
    theta = points(problem, 5)
    single = problem(theta.float())
    assert single.dtype == torch.float32
    # float32 carries 7 digits; the terms that cancel are up to about 1e3 times the result
    torch.testing.assert_close(single.double(), problem(theta), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("problem", "minimum"),
    [
        (Rosenbrock(), [1.0, 1.0]),
        (Booth(), [1.0, 3.0]),
        (Rastrigin(dim=4), [0.0] * 4),
        (DoubleWell(), [-1.0, 0.0]),
        (DoubleWell(bend=0.5), [1.0, 0.0]),
        (Quadratic(random_spd(2), torch.tensor([2.0, -1.0])), [2.0, -1.0]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_known_minimum_is_zero_and_stationary_and_curved_upwards(problem, minimum):
    theta = torch.tensor(minimum, dtype=F64)
    assert problem(theta).item() == 0
    assert slope(problem, theta).abs().max().item() == 0
    assert set(hessian_signs(problem, theta)) == {1}


def test_booth_hessian_has_the_eigenvalues_2_and_18():
    hessian = torch.autograd.functional.hessian(Booth(), torch.zeros(2, dtype=F64))
    torch.testing.assert_close(torch.linalg.eigvalsh(hessian), torch.tensor([2.0, 18.0], dtype=F64))


def test_booth_gradient_descent_gives_the_first_two_published_losses():
    # Zhao et al. 2022: from (5, -5) with rate 0.08, L(0) = 144 and L(1) = 64.7424
    theta = torch.tensor([5.0, -5.0], dtype=F64)
    after_one_step = theta - 0.08 * slope(Booth(), theta)
    losses = Booth()(torch.stack([theta, after_one_step]))
    torch.testing.assert_close(losses, torch.tensor([144.0, 64.7424], dtype=F64), rtol=1e-12, atol=0)


def test_rosenbrock_is_the_squared_length_of_its_linear_coordinates():
    u, v = points(Rosenbrock(), 10).unbind(-1)
    x, y = v + 1, (v + 1) ** 2 - u / 10
    torch.testing.assert_close(Rosenbrock()(torch.stack([x, y], -1)), u**2 + v**2)


def test_rastrigin_has_one_minimum_at_each_integer_up_to_31():
    x = torch.linspace(-40, 40, 80_001, dtype=F64)
    losses = Rastrigin(dim=1)(x[:, None])
    lower = losses[1:-1] < torch.minimum(losses[:-2], losses[2:])
    assert x[1:-1][lower].round().int().tolist() == list(range(-31, 32))


def stationary_points(problem, grid) -> list[torch.Tensor]:
    """Distinct zeros of the gradient, by Newton-type root finding from every point of a grid."""
    found: list[torch.Tensor] = []
    for start in grid:
        solution = optimize.root(
            lambda t: slope(problem, torch.tensor(t, dtype=F64)).numpy(),
            start,
            jac=lambda t: torch.autograd.functional.hessian(problem, torch.tensor(t, dtype=F64)).numpy(),
            tol=1e-12,
        )
        theta = torch.tensor(solution.x, dtype=F64)
        inside = -1.5 <= theta[0] <= 1.2 and -0.3 <= theta[1] <= 2.0
        flat = slope(problem, theta).abs().max() < 1e-9
        if flat and inside and all((theta - other).norm() > 1e-6 for other in found):
            found.append(theta)
    return found


def test_mueller_brown_has_three_minima_and_two_saddles_of_index_one():
    grid = itertools.product(torch.linspace(-1.5, 1.2, 10).tolist(), torch.linspace(-0.3, 2.0, 10).tolist())
    problem = MuellerBrown()
    found = sorted(stationary_points(problem, grid), key=problem)
    signs = [hessian_signs(problem, theta) for theta in found]
    assert signs == [(1, 1), (1, 1), (1, 1), (-1, 1), (-1, 1)]
    rounded = [[round(v, 2) for v in theta.tolist()] for theta in found]
    assert rounded == [[-0.56, 1.44], [0.62, 0.03], [-0.05, 0.47], [0.21, 0.29], [-0.82, 0.62]]


def test_double_well_minimax_is_one_and_its_segment_bulges_by_the_bend():
    well = DoubleWell(bend=1.5, stiffness=3.0)
    ridge = torch.linspace(-5, 5, 1001, dtype=F64)
    crossing = well(torch.stack([torch.zeros_like(ridge), ridge], -1))
    saddle = torch.tensor([0.0, 1.5], dtype=F64)
    assert crossing.min().item() == well(saddle).item() == 1
    assert hessian_signs(well, saddle) == (-1, 1)
    x = torch.linspace(-1, 1, 201, dtype=F64)
    valley = well(torch.stack([x, 1.5 * (1 - x**2)], -1))
    assert valley.max().item() == 1  # the path that attains it
    segment = well(torch.stack([x, torch.zeros_like(x)], -1))
    torch.testing.assert_close(segment.max().item(), 1 + 3.0 * 1.5**2)


def test_flat_ring_segment_climbs_by_its_sagitta():
    ring = Ring(barriers=(0.0,), radius=2.0, stiffness=3.0)
    phi = 1.3
    ends = 2.0 * torch.tensor([[1.0, 0.0], [math.cos(phi), math.sin(phi)]], dtype=F64)
    segment = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, 1001, dtype=F64)[:, None])
    expected = 0.5 * 3.0 * (2.0 * (1 - math.cos(phi / 2))) ** 2
    torch.testing.assert_close(ring(segment).max().item(), expected)
    assert ring(ends).max().item() < 1e-30


def grid_minimax(ring: Ring, side: int) -> torch.Tensor:
    """Minimax loss between the minima over all paths on a grid: flood the cells in the order of their loss."""
    minima = ring.minima()
    axis = torch.linspace(-1.5, 1.5, side, dtype=F64)
    losses = ring(torch.cartesian_prod(axis, axis)).tolist()
    cells = [((m - axis[0]) / (axis[1] - axis[0])).round().long() for m in minima]
    starts = [int(row * side + column) for row, column in cells]
    parent = list(range(side * side))

    def root(cell: int) -> int:
        while parent[cell] != cell:
            parent[cell] = cell = parent[parent[cell]]
        return cell

    result = torch.zeros(len(starts), len(starts), dtype=F64)
    wet = [False] * (side * side)
    for cell in sorted(range(side * side), key=losses.__getitem__):
        wet[cell] = True
        row, column = divmod(cell, side)
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= r < side and 0 <= c < side and wet[r * side + c]:
                parent[root(r * side + c)] = root(cell)
        for i, j in itertools.combinations(range(len(starts)), 2):
            both = wet[starts[i]] and wet[starts[j]]
            if both and result[i, j] == 0 and root(starts[i]) == root(starts[j]):
                result[i, j] = result[j, i] = losses[cell]
    return result


def test_ring_bottlenecks_are_the_minimax_over_all_grid_paths():
    ring = Ring((1.0, 4.0, 2.0, 3.0))
    # a grid path of spacing 0.04 passes a saddle at most 0.02 away in each coordinate, 0.03 in all; the only
    # upward curvature there is the stiffness 20, so it climbs at most ½ · 20 · 0.03² = 0.01 too high, and never too low
    gap = grid_minimax(ring, side=76) - ring.bottlenecks()
    assert gap.min() >= 0
    assert gap.max() < 0.01


def test_ring_refuses_a_barrier_above_its_centre():
    with pytest.raises(LossAtlasError, match=r"each in \[0, 5\]"):
        Ring((1.0, 6.0), stiffness=10.0)


def test_ring_minima_are_minima_of_loss_zero():
    ring = Ring((1.0, 4.0, 2.0))
    minima = ring.minima()
    assert ring(minima).max().item() < 1e-28  # squares of roundings
    assert slope(ring, minima).abs().max().item() < 1e-13


@pytest.mark.parametrize("hessian", [torch.tensor([0.5, 3.0], dtype=F64), random_spd(2)], ids=["diag", "full"])
def test_quadratic_closed_forms_follow_its_own_gradient(hessian):
    problem = Quadratic(hessian, torch.tensor([1.0, -2.0], dtype=F64))
    start = points(problem, 3)

    stepped = start
    for _ in range(7):
        stepped = stepped - 0.1 * slope(problem, stepped)
    torch.testing.assert_close(problem.gradient_descent(start, 0.1, 7), stepped, rtol=1e-12, atol=1e-12)

    flow = integrate.solve_ivp(
        lambda _, t: -slope(problem, torch.tensor(t, dtype=F64).view(3, 2)).flatten().numpy(),
        (0, 0.8),
        start.flatten().numpy(),
        rtol=1e-10,
        atol=1e-12,
    )
    # 1e-8: a hundred times the integrator's own tolerance
    final = torch.tensor(flow.y[:, -1], dtype=F64).view(3, 2)
    torch.testing.assert_close(problem.gradient_flow(start, 0.8), final, rtol=1e-8, atol=1e-8)


def test_eggcarton_has_its_minima_at_half_integers_saddles_on_edges_and_maxima_at_integers():
    at = {(0.5, 1.5): (-2.0, (1, 1)), (1.0, 0.5): (0.0, (-1, 1)), (1.0, 2.0): (2.0, (-1, -1))}
    for point, (value, signs) in at.items():
        theta = torch.tensor(point, dtype=F64)
        assert Eggcarton()(theta).item() == pytest.approx(value, abs=1e-12)  # roundings of cos
        assert slope(Eggcarton(), theta).abs().max() < 1e-12 * (2 * math.pi)
        assert hessian_signs(Eggcarton(), theta) == signs


def test_curvy_valley_minimax_is_one_at_the_origin():
    valley, x0 = CurvyValley(), CurvyValley.half_distance
    ends = torch.tensor([[-x0, -1.0], [x0, 1.0]], dtype=F64)
    assert valley(ends).max() < 1e-30
    ridge = torch.linspace(-5, 5, 1001, dtype=F64)
    assert valley(torch.stack([torch.zeros_like(ridge), ridge], -1)).min().item() == 1
    x = torch.linspace(-x0, x0, 1001, dtype=F64)
    assert valley(torch.stack([x, x.sin()], -1)).max().item() == 1  # the path that attains it
    assert hessian_signs(valley, torch.zeros(2, dtype=F64)) == (-1, 1)
