"""The sweep against a plain evaluation of one point after another, and lines whose losses are known."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from lossatlas import curves, ensemble
from lossatlas.ensemble import Layout
from lossatlas.errors import LossAtlasError
from lossatlas.interpolation import line, refined, split_first, sweep
from lossatlas.problems.architectures import cnn, mlp, resnet
from lossatlas.problems.network import NetworkProblem, ema_moments, exact_moments, initial
from lossatlas.symmetry import permuted
from lossatlas.velocities import velocities

EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64, losses of order 1, sums of tens of terms


class Whole(nn.Module):
    """The same network as one module without a rule, so that no layer of it can be shared."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.gate = nn.Linear(6, 3), nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return torch.tanh(self.layer(x)) * self.gate + x[:, :3]


def activation_first():
    return nn.Sequential(nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def one_activation_used_twice():
    act = nn.Tanh()
    return nn.Sequential(act, nn.Linear(6, 5), act, nn.Linear(5, 5), act, nn.Linear(5, 3))


NETWORKS = {
    "mlp": (lambda: mlp((6, 8, 7, 3)), (6,)),
    "mlp bn": (lambda: mlp((6, 8, 7, 3), "tanh", batch_norm=True), (6,)),
    "cnn 1d": (lambda: cnn((1, 9), (4, 5), 3), (1, 9)),
    "cnn 2d bn": (lambda: cnn((2, 6, 6), (4, 5), 3, batch_norm=True), (2, 6, 6)),
    "gated": (Gated, (6,)),
    "activation first": (activation_first, (6,)),
    "one activation used twice": (one_activation_used_twice, (6,)),
    "linear": (lambda: nn.Sequential(nn.Linear(6, 3)), (6,)),
    "batch norm first": (lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)), (6,)),
    "inputs normalised": (
        lambda: nn.Sequential(nn.BatchNorm1d(6, affine=False), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)),
        (6,),
    ),
}


def ends(name, n=12, k=2, dtype=torch.float64):
    build, shape = NETWORKS[name]
    torch.manual_seed(3)
    x, y = torch.randn(n, *shape, dtype=dtype), torch.randint(0, 3, (n,))
    start, end = initial(build, range(k)).to(dtype), initial(build, range(50, 50 + k)).to(dtype)
    end = end + 0.5 * torch.randn_like(end)
    return NetworkProblem(build().to(dtype), x, y), start, end


def plainly(problem, start, end, points):
    """Loss, error and logits of each point by itself, from the definition."""
    losses, errors, logits = [], [], []
    for a, b in zip(start, end, strict=True):
        for alpha in torch.linspace(0, 1, points, dtype=torch.float64):
            z = problem.logits(((1 - alpha) * a + alpha * b)[None])[0]
            losses.append(F.cross_entropy(z, problem.y))
            errors.append((z.argmax(-1) != problem.y).double().mean())
            logits.append(z)
    shape = (len(start), points)
    return (torch.stack(part).unflatten(0, shape).detach() for part in (losses, errors, logits))


# --- the line ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_line_begins_and_ends_at_its_ends_bit_for_bit(dtype):
    start, end = (torch.randn(1000, generator=torch.Generator().manual_seed(s)).to(dtype) for s in (0, 1))
    start, end = start * 1e3, end * 1e-3  # so that start + (end - start) would not be end
    for points in (2, 5, 50, 99):
        theta = line(start, end, torch.linspace(0, 1, points, dtype=torch.float64))
        assert torch.equal(theta[0], start)
        assert torch.equal(theta[-1], end)


def test_a_line_is_affine_and_its_exponents_bend_single_coordinates():
    start, end = torch.tensor([1.0, 2.0, -1.0]).double(), torch.tensor([3.0, -2.0, 5.0]).double()
    alphas = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(line(start, end, alphas), start + alphas[:, None] * (end - start), **EXACT)
    bent = line(start, end, alphas, torch.tensor([1.0, 3.0, 0.5]))
    for p, exponent in enumerate((1.0, 3.0, 0.5)):
        torch.testing.assert_close(bent[:, p], start[p] + alphas**exponent * (end[p] - start[p]), **EXACT)


@pytest.mark.parametrize("points", [2, 5, 50, 99])
def test_the_grid_has_both_ends_and_equal_steps(points):
    problem, start, end = ends("linear")
    alphas = sweep(problem, start, end, points).alphas
    assert alphas[0] == 0
    assert alphas[-1] == 1
    assert len(alphas) == points
    torch.testing.assert_close(alphas.diff(), torch.full((points - 1,), 1 / (points - 1), dtype=torch.float64), **EXACT)


# --- the sweep --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [None, 700, 1])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_sweep_equals_the_plain_evaluation_of_each_point(name, budget, monkeypatch):
    problem, start, end = ends(name)
    expected = plainly(problem, start, end, 7)
    if budget:
        monkeypatch.setattr(ensemble, "CACHE_BYTES", budget)
    found = sweep(problem, start, end, 7, logits_rows=12)
    for got, want in zip((found.loss, found.error, found.logits), expected, strict=True):
        torch.testing.assert_close(got, want, **EXACT)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sweep_in_float32_is_within_a_millionth(name):
    problem, start, end = ends(name, dtype=torch.float32)
    double = problem.to(dtype=torch.float64)
    loss, _, _ = plainly(double, start.double(), end.double(), 7)
    # losses of order 1, 24 bits
    torch.testing.assert_close(sweep(problem, start, end, 7).loss, loss, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "mlp bn", "cnn 1d"])
def test_a_shared_first_layer_changes_no_number(name):
    problem, start, end = ends(name)
    whole = NetworkProblem(Whole(problem.module), problem.x, problem.y)
    assert split_first(problem.module) is not None
    assert split_first(whole.module) is None
    one, other = (sweep(p, start, end, 6, logits_rows=5) for p in (problem, whole))
    torch.testing.assert_close(one.loss, other.loss, **EXACT)
    torch.testing.assert_close(one.logits, other.logits, **EXACT)


def test_a_resnet_is_swept_like_any_other_network():
    torch.manual_seed(0)

    def build():
        return resnet(8, 3)

    problem = NetworkProblem(build().double(), torch.randn(4, 3, 8, 8).double(), torch.tensor([0, 1, 2, 0]))
    start, end = initial(build, [0]).double(), initial(build, [1]).double()
    (expected, *_) = plainly(problem, start, end, 4)
    torch.testing.assert_close(sweep(problem, start, end, 4).loss, expected, rtol=1e-10, atol=1e-10)  # 8 layers


@pytest.mark.parametrize("name", ["mlp", "mlp bn"])
def test_the_ends_of_a_sweep_are_the_losses_of_the_modules(name):
    problem, start, end = ends(name)
    found = sweep(problem, start, end, 5)
    for curve, a, b in zip(found.loss, start, end, strict=True):
        for value, theta in ((curve[0], a), (curve[-1], b)):
            module = copy.deepcopy(problem.module)
            z = functional_call(module, problem.layout.split(theta), (problem.x,))
            torch.testing.assert_close(value, F.cross_entropy(z, problem.y).detach(), **EXACT)


@pytest.mark.parametrize("name", ["mlp", "mlp bn", "cnn 1d"])
def test_a_sweep_sees_the_same_data_at_every_point_and_repeats_bit_for_bit(name):
    problem, start, end = ends(name, dtype=torch.float32)
    one, again = (sweep(problem, start, end, 7, logits_rows=4) for _ in range(2))
    assert torch.equal(one.loss, again.loss)
    assert torch.equal(one.logits, again.logits)
    still = sweep(problem, end, end, 7)  # a line of one point: a change could only come from the data
    torch.testing.assert_close(still.loss, still.loss[:, :1].expand(-1, 7), rtol=1e-6, atol=0)  # chunks round alike


def test_a_sweep_leaves_networks_ends_and_random_state_alone():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    module.eval()
    before = copy.deepcopy(module.state_dict())
    problem = NetworkProblem(module, torch.randn(8, 6), torch.zeros(8, dtype=torch.int64))
    start, end = torch.randn(2, 1, problem.dim)
    kept, state = (start.clone(), end.clone()), torch.get_rng_state()
    sweep(problem, start, end, 4)
    assert torch.equal(start, kept[0])
    assert torch.equal(end, kept[1])
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert not module.training
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("points", [3, 26, 50])
def test_every_second_point_of_the_nested_grid_is_the_coarse_sweep(points):
    problem, start, end = ends("mlp")
    assert [refined(n) for n in (50, 99)] == [99, 197]
    fine = sweep(problem, start, end, refined(points), logits_rows=3).every_second()
    coarse = sweep(problem, start, end, points, logits_rows=3)
    for name in ("alphas", "loss", "error", "logits"):
        torch.testing.assert_close(getattr(fine, name), getattr(coarse, name), **EXACT)


@pytest.mark.parametrize("rows", [0, 1, 5, 12, 40])
def test_logits_are_those_of_the_first_rows(rows, monkeypatch):
    problem, start, end = ends("mlp")
    (*_, expected) = plainly(problem, start, end, 4)
    monkeypatch.setattr(ensemble, "CACHE_BYTES", 300)  # several row blocks
    found = sweep(problem, start, end, 4, logits_rows=rows).logits
    torch.testing.assert_close(found, expected[:, :, :rows], **EXACT)


@pytest.mark.parametrize("budget", [None, 300])
def test_exponents_bend_the_coordinates_above_the_first_layer(budget, monkeypatch):
    problem, start, end = ends("mlp")
    last = problem.layout.sizes[-1]
    exponents = torch.ones(problem.dim)
    exponents[-last:] = 3
    alphas = torch.linspace(0, 1, 6, dtype=torch.float64)
    expected = torch.stack([problem(line(a, b, alphas, exponents)) for a, b in zip(start, end, strict=True)]).detach()
    if budget:
        monkeypatch.setattr(ensemble, "CACHE_BYTES", budget)
    torch.testing.assert_close(sweep(problem, start, end, 6, exponents=exponents).loss, expected, **EXACT)


def test_progress_counts_the_lines():
    problem, start, end = ends("linear")
    seen = []
    sweep(problem, start, end, 3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("a", "b"), [((3,), (3,)), ((2, 3), (1, 3)), ((1, 2, 3), (1, 2, 3))])
def test_ends_of_other_shapes_are_refused_with_the_shape_that_is_needed(a, b):
    problem, *_ = ends("linear")
    with pytest.raises(LossAtlasError, match=r"\(k, P\)"):
        sweep(problem, torch.zeros(a), torch.zeros(b))


# --- BatchNorm on the line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp bn", "cnn 2d bn", "inputs normalised"])
@pytest.mark.parametrize("budget", [None, 500])
def test_held_out_rows_are_swept_with_the_statistics_of_the_training_rows(name, budget, monkeypatch):
    problem, start, end = ends(name)
    test = replace(problem, x=2 * problem.x[:5] + 1, y=problem.y[:5], moments=exact_moments(problem))
    alphas = torch.linspace(0, 1, 5, dtype=torch.float64)
    expected = torch.stack([test(line(a, b, alphas)) for a, b in zip(start, end, strict=True)]).detach()
    if budget:
        monkeypatch.setattr(ensemble, "CACHE_BYTES", budget)
    torch.testing.assert_close(sweep(test, start, end, 5).loss, expected, **EXACT)


def test_the_curve_of_exact_statistics_does_not_depend_on_the_order_of_the_rows_and_that_of_averages_does():
    problem, start, end = ends("mlp bn")
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = problem.on(order)
    torch.testing.assert_close(sweep(problem, start, end, 6).loss, sweep(shuffled, start, end, 6).loss, **EXACT)
    averaged = [
        sweep(replace(p, moments=ema_moments(p, list(torch.arange(12).split(4)))), start, end, 6).loss
        for p in (problem, shuffled)
    ]
    assert (averaged[0] - averaged[1]).abs().max() > 1e-3  # three batches keep 73 % of the reset values


# --- lines whose losses are known -------------------------------------------------------------------------------------


def product_of_two_weights(start, end, points):
    """L = (1 - w1 w2)², as a network 1-1-1 without biases on the input 1 with target 1."""
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    one = torch.ones(1, 1, dtype=torch.float64)
    problem = NetworkProblem(module, one, one, loss="squared_error")
    return sweep(problem, torch.tensor([start]).double(), torch.tensor([end]).double(), points)


def test_from_the_saddle_to_a_minimum_the_loss_is_one_minus_alpha_squared_squared():
    found = product_of_two_weights((0.0, 0.0), (1.0, 1.0), 50)
    torch.testing.assert_close(found.loss[0], (1 - found.alphas**2) ** 2, **EXACT)
    assert curves.minimum_delta(found.loss).item() == 0
    assert found.error.isnan().all()  # a regression has no error rate


def test_between_opposite_minima_the_barrier_is_one_in_the_middle():
    found = product_of_two_weights((1.0, 1.0), (-1.0, -1.0), 51)
    assert curves.minimum_delta(found.loss).item() == pytest.approx(1, rel=1e-12)
    assert found.loss[0].argmax() == 25


@pytest.mark.parametrize("a", [0.25, 0.5, 1.0])
def test_through_the_saddle_the_rise_is_two_a_squared_less_a_to_the_fourth(a):
    # the saddle (0, 0) lies at alpha = a / (1 + a): a grid of 5 * 9 * 2 intervals has it for all three
    found = product_of_two_weights((-a, -a), (1.0, 1.0), 91)
    assert curves.minimum_delta(found.loss).item() == pytest.approx(2 * a**2 - a**4, rel=1e-12)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_a_linear_model_has_straight_logits_and_a_convex_loss(loss):
    problem, start, end = ends("linear", k=6)
    found = sweep(replace(problem, loss=loss), start, end, 40, logits_rows=12)
    paths = found.logits.transpose(1, 2)
    assert curves.turning(paths).max() < 1e-9  # angles of float64 differences
    assert (found.loss.diff(n=2) >= -1e-13).all()
    assert torch.equal(curves.minimum_delta(found.loss) > 1e-12, found.loss[:, -1] - found.loss[:, -2] > 1e-12)


def test_tiny_logits_have_the_loss_of_a_uniform_guess():
    problem, start, end = ends("mlp")
    loss = sweep(problem, 1e-3 * start, end, 3).loss[:, 0]
    # logits of order 1e-3 at most: log C to first order
    torch.testing.assert_close(loss, torch.full((2,), 3.0).double().log(), rtol=0, atol=2e-3)


def test_swapping_the_ends_reverses_the_curve():
    problem, start, end = ends("mlp bn")
    there, back = sweep(problem, start, end, 9).loss, sweep(problem, end, start, 9).loss
    torch.testing.assert_close(there, back.flip(-1), **EXACT)


def test_permuting_both_ends_alike_changes_no_curve_and_one_end_no_end_of_it():
    for name in ("mlp", "mlp bn"):
        problem, start, end = ends(name)

        def shuffle(theta, problem=problem):
            return permuted(problem, theta, [torch.Generator().manual_seed(4 + i) for i in range(len(theta))])

        own = sweep(problem, start, end, 7).loss
        torch.testing.assert_close(sweep(problem, shuffle(start), shuffle(end), 7).loss, own, **EXACT)
        other = sweep(problem, start, shuffle(end), 7).loss
        torch.testing.assert_close(other[:, [0, -1]], own[:, [0, -1]], **EXACT)
        assert (other - own).abs().max() > 1e-3


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_from_zero_the_logits_of_a_bias_free_relu_network_are_homogeneous(depth):
    torch.manual_seed(depth)
    widths = [6, *[8] * (depth - 1), 3]
    layers = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out, bias=False), nn.ReLU()]
    module = nn.Sequential(*layers[:-1]).double()
    x, y = torch.randn(9, 6).double(), torch.randint(0, 3, (9,))
    end = Layout.of(module).flatten(module)[None]
    problem = NetworkProblem(module, x, y)
    found = sweep(problem, torch.zeros_like(end), end, 21, logits_rows=9)
    z = found.logits[0]
    torch.testing.assert_close(z, found.alphas[:, None, None] ** depth * z[-1], **EXACT)
    assert (found.error[0, 1:] == found.error[0, -1]).all()
    paths = z.transpose(0, 1)
    assert curves.turning(paths).max() < 1e-8  # straight, in steps as small as 1e-6 of the whole
    to_end = curves.distance_to_end(paths)
    torch.testing.assert_close(to_end, (1 - found.alphas**depth) ** 2 * z[-1].square().sum(-1, keepdim=True), **EXACT)
    assert curves.minimum_delta(to_end).max() == 0


# --- kinks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("psi", [0.5, 1.5, 2.5])
def test_a_relu_kink_is_seen_by_the_polygon_and_not_by_the_smooth_formula(psi):
    # hidden pre-activations 1 - 2 alpha and 2 alpha - 1 from the biases alone; output columns -u1 and l u2
    length = 1.7
    u = torch.tensor([[1.0, 0.0], [length * torch.cos(torch.tensor(psi)), length * torch.sin(torch.tensor(psi))]])
    module = mlp((1, 2, 2)).double()
    problem = NetworkProblem(module, torch.ones(1, 1).double(), torch.zeros(1, dtype=torch.int64))
    weights, zero = torch.zeros(2), torch.zeros(2)
    columns = torch.stack([-u[0], u[1]], dim=1).flatten()
    start, end = (torch.cat([weights, torch.tensor([s, -s]), columns, zero]).double()[None] for s in (1.0, -1.0))
    found = sweep(problem, start, end, 50, logits_rows=1)  # an even number: the kink at 1/2 is off the grid
    polygon = curves.turning(found.logits.transpose(1, 2))
    assert polygon.item() == pytest.approx(psi, abs=1e-6)  # psi is a float32 angle
    smooth, still = curves.gauss_length(*velocities(problem, start[0], end[0], found.alphas))
    assert smooth.item() == 0
    assert not still.item()
    delta = curves.minimum_delta(curves.distance_to_end(found.logits[0].transpose(0, 1))).item()
    fine = sweep(problem, start, end, 20001, logits_rows=1)  # grid step 5e-5: stationary point to its square
    delta = curves.minimum_delta(curves.distance_to_end(fine.logits[0].transpose(0, 1))).item()
    c = length * torch.cos(torch.tensor(psi)).item()
    expected = 0 if c >= 0 else c * c if c > -1 else -1 - 2 * c
    assert delta == pytest.approx(expected, abs=1e-4)
