"""Group laws, invariance of the loss, and how gradients transform; by definition and by autograd, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lossatlas import ensemble
from lossatlas.errors import LossAtlasError
from lossatlas.problems import Booth, Rosenbrock
from lossatlas.problems.architectures import cnn, mlp
from lossatlas.problems.network import NetworkProblem
from lossatlas.teleport.general_linear import GeneralLinear, Inputs, exponential, times_pinv
from lossatlas.teleport.groups import Permutation, PositiveScaling
from lossatlas.teleport.plane_rotation import BOOTH, ROSENBROCK, PlaneRotation

# sums in another order, condition numbers below a few hundred
SAME = {"rtol": 1e-9, "atol": 1e-10}


def network(widths=(9, 8, 7, 3), rows=5, bias=False, activation="leaky_relu", seed=0, members=3, own_rows=False):
    generator = torch.Generator().manual_seed(seed)
    shape = (members, rows) if own_rows else (rows,)
    x = torch.randn(*shape, widths[0], generator=generator, dtype=torch.float64)
    y = torch.randint(widths[-1], shape, generator=generator)
    problem = NetworkProblem(mlp(widths, activation, bias=bias).double(), x, y, own_rows=own_rows)
    theta = torch.randn(members, problem.dim, generator=generator, dtype=torch.float64) / 2
    return problem, theta


def generators(seed, k=3):
    return [torch.Generator().manual_seed(100 * seed + i) for i in range(k)]


def points(seed, k=3):
    return 2 * torch.randn(k, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cases(seed=0):
    """(problem, theta, group, a true group action on parameters?)"""
    problem, theta = network(seed=seed)
    biased, with_bias = network(bias=True, seed=seed)
    square, on_square = network((5, 5, 5, 3), rows=5, seed=seed)
    yield Booth(), points(seed), PlaneRotation(BOOTH)
    yield Rosenbrock(), points(seed), PlaneRotation(ROSENBROCK)
    yield problem, theta, Permutation(problem)
    yield problem, theta, PositiveScaling(problem)
    yield biased, with_bias, PositiveScaling(biased)
    yield problem, theta, GeneralLinear(problem, (0,))
    yield problem, theta, GeneralLinear(problem, (1,))
    yield biased, with_bias, GeneralLinear(biased, (0,))
    yield square, on_square, GeneralLinear(square)


def condition(problem, theta):
    """The greatest condition number of the inputs to a linear layer, over members; 1 without layers."""
    if not isinstance(problem, NetworkProblem):
        return 1.0
    seen = []
    for member in theta:
        module = problem.layout.write(member, problem.module)
        for layer in module:
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(lambda _layer, inputs, _outputs: seen.append(inputs[0]))
        with torch.no_grad():
            module(problem.x)
    return max(float(torch.linalg.cond(x)) for x in seen)


NAMES = ["booth", "rosenbrock", "permutation", "scaling", "scaling-bias", "gl-0", "gl-1", "gl-bias", "gl-square"]
every_group = pytest.mark.parametrize("i", range(len(NAMES)), ids=NAMES)


@every_group
def test_the_identity_changes_no_bit(i):
    _, theta, group = list(cases())[i]
    assert torch.equal(group.act(theta, group.identity(3)), theta)
    assert torch.equal(group.act(theta.float(), group.identity(3)), theta.float())


@every_group
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), radius=st.floats(0.05, 0.8))
def test_acting_twice_is_acting_with_the_product_and_the_inverse_undoes_it(i, seed, radius):
    problem, theta, group = list(cases(seed))[i]
    a, b = (group.random(3, radius, generators(seed + j)) for j in (0, 1))
    there = group.act(theta, a)
    # a pseudoinverse of a batch has its condition number times roundings as its error, and weights take two of them
    worst = condition(problem, theta)
    scale = dict.fromkeys(("rtol", "atol"), 1e-9 + 1e-12 * worst**2)
    torch.testing.assert_close(group.act(there, group.inverse(a)), theta, **scale)
    torch.testing.assert_close(group.act(there, b), group.act(theta, group.compose(b, a)), **scale)
    torch.testing.assert_close(problem(there), problem(theta), rtol=1e-10 + 1e-11 * worst, atol=1e-10 + 1e-11 * worst)


@every_group
def test_elements_form_a_group(i):
    _, _, group = list(cases())[i]
    a, b, c = (group.random(3, 0.5, generators(j)) for j in range(3))
    for left, right in (
        (group.compose(c, group.compose(b, a)), group.compose(group.compose(c, b), a)),
        (group.compose(group.inverse(a), a), group.identity(3)),
        (group.compose(a, group.identity(3)), a),
        (group.inverse(group.compose(b, a)), group.compose(group.inverse(a), group.inverse(b))),
    ):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@every_group
def test_gradients_transform_by_the_inverse_transposed_jacobian(i):
    """grad L(g w) = J^-T grad L(w): the closed form against autograd at the image."""
    problem, theta, group = list(cases(4))[i]
    element = group.random(3, 0.4, generators(7))
    _, slope = ensemble.gradient(problem, theta)
    _, there = ensemble.gradient(problem, group.act(theta, element))
    torch.testing.assert_close(group.cotangent(theta, element, slope), there, rtol=1e-7, atol=1e-8)
    # the negative of it: the gradient with respect to the original parameters does not change along the orbit
    original = theta.clone().requires_grad_()
    (constant,) = torch.autograd.grad(problem(group.act(original, element)).sum(), original)
    torch.testing.assert_close(constant, slope, rtol=1e-7, atol=1e-8)


@every_group
def test_actions_do_not_change_their_input_and_draw_from_their_generators_alone(i):
    _, theta, group = list(cases())[i]
    before, state = theta.clone(), torch.get_rng_state()
    one, two = (group.act(theta, group.random(3, 0.5, generators(3))) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(theta, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(one, theta)


# --- rotations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("problem", "chart"), [(Booth(), BOOTH), (Rosenbrock(), ROSENBROCK)])
def test_charts_are_coordinates_in_which_the_loss_is_a_sum_of_squares(problem, chart):
    x = points(1, 20)
    torch.testing.assert_close(chart.to_linear(x).square().sum(-1), problem(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(chart.from_linear(chart.to_linear(x)), x, rtol=1e-12, atol=1e-12)
    jacobian = torch.func.vmap(torch.func.jacfwd(chart.to_linear))(x)
    torch.testing.assert_close(chart.jacobian(x), jacobian)


@pytest.mark.parametrize(("problem", "chart"), [(Booth(), BOOTH), (Rosenbrock(), ROSENBROCK)])
def test_the_argmax_is_the_best_of_a_fine_grid(problem, chart):
    group, theta = PlaneRotation(chart), points(2, 40)
    angle = group.argmax(theta)
    grid = torch.linspace(-math.pi, math.pi, 20001, dtype=torch.float64)
    on_grid = group.gradient_squares(theta, grid.expand(40, -1)).amax(-1)
    _, slope = ensemble.gradient(problem, group.act(theta, angle))
    found = slope.square().sum(-1)
    assert (found >= on_grid * (1 - 1e-12)).all()
    assert (found <= on_grid * (1 + 1e-5)).all()  # the grid misses a peak by (4 * 1.6e-4)² / 2 at most
    derivative = torch.func.vmap(torch.func.grad(lambda a, x: group.gradient_squares(x[None], a[None, None])[0, 0]))
    assert (derivative(angle, theta).abs() <= 1e-8 * found).all()


def test_of_two_equal_maxima_on_booths_orbit_the_nearer_is_taken():
    group = PlaneRotation(BOOTH)
    assert (group.argmax(points(3, 50)).abs() <= math.pi / 2 + 1e-9).all()  # they are half a turn apart


# --- scaling ----------------------------------------------------------------------------------------------------------


def test_scaling_keeps_the_outputs_on_every_batch():
    problem, theta = network(bias=True, activation="relu")
    group = PositiveScaling(problem)
    moved = group.act(theta, group.random(3, 3.0, generators(0)))
    elsewhere = NetworkProblem(problem.module, torch.randn(50, 9, dtype=torch.float64), torch.zeros(50).long())
    torch.testing.assert_close(elsewhere.logits(moved), elsewhere.logits(theta), **SAME)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", [(6, 5, 3), (6, 5, 4, 3), (6, 5, 4, 7, 3)])
def test_one_gradient_gives_the_gradient_norm_on_the_whole_orbit(widths, bias):
    problem, theta = network(widths, bias=bias)
    group = PositiveScaling(problem)
    _, slope = ensemble.gradient(problem, theta)
    elements = torch.stack([group.random(3, r, generators(4)) for r in (0.0, 0.5, 2.0)], 1)
    found = group.gradient_squares(slope, elements)
    for j in range(3):
        direct = ensemble.gradient(problem, group.act(theta, elements[:, j]))[1].square().sum(-1)
        torch.testing.assert_close(found[:, j], direct, rtol=1e-10, atol=0)


def test_the_orbit_is_log_convex():
    problem, theta = network(members=1)
    group = PositiveScaling(problem)
    _, slope = ensemble.gradient(problem, theta)
    a, b = (torch.stack([group.random(1, 2.0, [g]) for g in generators(s, 200)], 1) for s in (1, 2))
    middle = group.gradient_squares(slope, (a + b) / 2).log()
    chord = (group.gradient_squares(slope, a).log() + group.gradient_squares(slope, b).log()) / 2
    assert (middle <= chord + 1e-12).all()


def test_balancing_gives_the_least_gradient_with_equal_flows():
    problem, theta = network((6, 5, 4, 3))
    group = PositiveScaling(problem)
    _, slope = ensemble.gradient(problem, theta)
    s = group.balance(slope)
    into, out = group.flows(group.cotangent(theta, s, slope))
    torch.testing.assert_close(into, out, rtol=1e-8, atol=1e-14)
    least = group.gradient_squares(slope, s[:, None])
    near = torch.stack([s + group.random(3, 0.1, generators(j)) for j in range(50)], 1)
    assert (group.gradient_squares(slope, near) >= least).all()  # convex, so a local minimum is the global one


@pytest.mark.parametrize(("widths", "exact"), [((4, 6, 3), True), ((4, 4, 3, 3), False)])
def test_the_corner_is_the_best_vertex_of_the_box(widths, exact):
    problem, theta = network(widths)
    group = PositiveScaling(problem)
    _, slope = ensemble.gradient(problem, theta)
    corner = group.corner(slope, 0.7)
    assert (corner.abs() == 0.7).all()
    signs = torch.tensor([[1 - 2 * ((i >> j) & 1) for j in range(group.units)] for i in range(2**group.units)])
    values = group.gradient_squares(slope, (0.7 * signs.double()).expand(3, -1, -1))
    found = group.gradient_squares(slope, corner[:, None])[:, 0]
    assert (found <= values.amax(-1) * (1 + 1e-12)).all()
    if exact:
        torch.testing.assert_close(found, values.amax(-1), rtol=1e-12, atol=0)
    else:  # no change of one unit improves it
        for unit in range(group.units):
            flipped = corner.clone()
            flipped[:, unit] *= -1
            assert (group.gradient_squares(slope, flipped[:, None])[:, 0] <= found * (1 + 1e-12)).all()


def test_random_factors_scale_gradients_as_their_moments_say():
    """tau ~ U(1 - c, 1 + c): E tau² = 1 + c²/3, E tau^-2 = 1 / (1 - c²), independently for rows and columns."""
    problem, theta = network((6, 40, 40, 5), members=1)
    group, c, n = PositiveScaling(problem), 0.5, 4000
    _, slope = ensemble.gradient(problem, theta)
    tau = 1 + c * (2 * torch.rand(n, group.units, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1)
    parts = {name: part[0].square() for name, part in problem.layout.split(slope).items()}
    first, second = (tau[:, layer] for layer in group.layers)
    expected = (1 / (1 - c * c), (1 + c * c / 3) / (1 - c * c), 1 + c * c / 3)
    sampled = (
        first.pow(-2) @ parts["1.weight"].sum(-1),
        torch.einsum("ni,ij,nj->n", second.pow(-2), parts["3.weight"], first.square()),
        second.square() @ parts["5.weight"].sum(0),
    )
    total = group.gradient_squares(slope, tau.log()[None])[0]
    torch.testing.assert_close(total, sum(sampled), rtol=1e-9, atol=0)
    for ratio, part, values in zip(expected, parts.values(), sampled, strict=True):
        error = values.std() / math.sqrt(n)
        assert (values.mean() - ratio * part.sum()).abs() < 4 * error


def test_a_small_random_scaling_moves_at_right_angles_to_the_gradient():
    """Level sets contain orbits, so to first order the displacement is tangent to them; published bound 1e-2."""
    problem, theta = network((9, 30, 30, 3))
    group = PositiveScaling(problem)
    _, slope = ensemble.gradient(problem, theta)
    move = group.act(theta, group.random(3, 1e-3, generators(0))) - theta
    cosine = (slope * move).sum(-1) / slope.norm(dim=-1) / move.norm(dim=-1)
    assert cosine.abs().max() < 1e-2


# --- GL ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_rows", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_gl_keeps_each_output_on_its_batch_through_several_pairs(bias, own_rows):
    problem, theta = network((9, 8, 7, 6, 3), bias=bias, own_rows=own_rows)
    group = GeneralLinear(problem)
    moved = group.act(theta, group.random(3, 1.0, generators(0)))
    assert (moved - theta).norm() > 0.1
    torch.testing.assert_close(problem.logits(moved), problem.logits(theta), **SAME)


def test_a_sweep_over_adjacent_pairs_is_no_group_action_outside_of_its_batch():
    problem, theta = network()  # 5 rows, 8 units
    group = GeneralLinear(problem)
    a, b = (group.random(3, 0.5, generators(j)) for j in (0, 1))
    twice, product = group.act(group.act(theta, a), b), group.act(theta, group.compose(b, a))
    torch.testing.assert_close(problem.logits(twice), problem.logits(product), **SAME)
    assert (twice - product).norm() > 1e-3


def test_the_printed_projection_is_not_the_identity_at_the_identity():
    problem, theta = network()
    printed = GeneralLinear(problem, projected=True)
    moved = printed.act(theta, printed.identity(3))
    assert (moved - theta).norm() > 0.1
    torch.testing.assert_close(problem.logits(moved), problem.logits(theta), **SAME)


def test_the_correction_has_the_least_norm():
    problem, theta = network()
    group = GeneralLinear(problem, (0,))
    before = problem.layout.split(theta)["1.weight"]
    after = problem.layout.split(group.act(theta, group.random(3, 1.0, generators(2))))["1.weight"]
    # it lies in the span of the inputs: nothing of it acts at right angles to them
    basis, _ = torch.linalg.qr(problem.x.mT)
    change = after - before
    torch.testing.assert_close(change @ basis @ basis.mT, change, **SAME)


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6)])
def test_the_pseudo_inverse_is_that_of_the_singular_value_decomposition(shape):
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    y = torch.randn(2, 4, shape[1], generator=generator, dtype=torch.float64)
    torch.testing.assert_close(times_pinv(y, Inputs(h)), y @ torch.linalg.pinv(h), **SAME)


@pytest.mark.parametrize("bias", [False, True])
def test_the_ascent_direction_agrees_with_autograd_through_the_pseudo_inverse(bias):
    problem, theta = network((9, 8, 7, 6, 3), bias=bias)
    group = GeneralLinear(problem)
    _, slope = ensemble.gradient(problem, theta)
    found = group.direction(theta, ensemble.hessian_vector(problem, theta, slope))
    tangents = [torch.zeros(3, n, n, dtype=torch.float64, requires_grad=True) for n in (8, 7, 6)]
    moved = group._moved(theta, exponential(tangents))
    (at,) = torch.autograd.grad(problem(moved).sum(), moved, create_graph=True)
    expected = torch.autograd.grad(0.5 * at.square().sum(), tangents)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_orthogonal_matrices_leave_the_gradient_norm_of_a_linear_network():
    widths = (6, 6, 6, 6)
    module = nn.Sequential(*[m for _ in range(3) for m in (nn.Linear(6, 6, bias=False), nn.Identity())]).double()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 6, widths[0], generator=generator, dtype=torch.float64)
    problem = NetworkProblem(module, x, y, "squared_error")
    theta = torch.randn(2, problem.dim, generator=generator, dtype=torch.float64)
    group = GeneralLinear(problem)
    skew = [torch.randn(2, 6, 6, generator=generator, dtype=torch.float64) for _ in range(2)]
    turned = group.act(theta, exponential([t - t.mT for t in skew]))
    bent = group.act(theta, exponential([t / 2 for t in skew]))
    norms = [ensemble.gradient(problem, at)[1].norm(dim=-1) for at in (theta, turned, bent)]
    torch.testing.assert_close(norms[1], norms[0], rtol=1e-9, atol=0)
    assert ((norms[2] / norms[0] - 1).abs() > 1e-2).all()


def test_what_has_no_such_symmetry_is_refused_in_a_sentence():
    relu, _ = network(activation="relu")
    tanh, _ = network(activation="tanh")
    narrow, _ = network((9, 4, 7, 3), rows=5)
    wide, _ = network((4, 8, 7, 3), rows=5)
    normed = NetworkProblem(mlp((4, 5, 3), batch_norm=True), torch.randn(6, 4), torch.zeros(6).long())
    images = NetworkProblem(cnn((1, 6), (4,), 3), torch.zeros(2, 1, 6), torch.zeros(2).long())
    for make, problem, words in (
        (GeneralLinear, relu, "ReLU is none"),
        (GeneralLinear, tanh, "Tanh between layers"),
        (PositiveScaling, tanh, "Tanh between layers"),
        (GeneralLinear, narrow, "5 rows in a layer of 4 units"),
        (GeneralLinear, wide, "5 rows in a layer of 4 units"),
        (PositiveScaling, normed, "normalisation"),
        (PositiveScaling, images, "perceptrons"),
    ):
        with pytest.raises(LossAtlasError, match=words):
            make(problem)
    GeneralLinear(narrow, (0,))  # the pair whose inputs are wide enough
    GeneralLinear(wide, least_squares=True)
