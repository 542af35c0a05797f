"""The batched engine against one plain module after another, in float64."""

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from lossatlas import ensemble
from lossatlas.ensemble import Layout, Norm
from lossatlas.errors import LossAtlasError
from lossatlas.problems import Quadratic, Rosenbrock
from lossatlas.problems.architectures import NORMS, cnn, mlp, resnet
from lossatlas.problems.network import NetworkProblem, ema_moments, exact_moments, initial

MEMBERS = 3
# Sums of at most some thousand float64 terms of order 1, in another order: errors of a few hundred 1e-16.
EXACT = {"rtol": 1e-9, "atol": 1e-11}


class Custom(nn.Module):
    """A module that the package has no rule for: two branches, one of them gated by a bare parameter."""

    def __init__(self, batch_norm=False):
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.norm = nn.BatchNorm1d(5) if batch_norm else nn.Identity()
        self.gate = nn.Parameter(torch.tensor(0.7))
        self.last = nn.Linear(5, 3, bias=False)

    def forward(self, x):
        h = self.norm(self.first(x))
        return self.last(torch.tanh(h) + self.gate * h)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRU(2, 4, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.cell(x)[0][:, -1])


class Skip(nn.Sequential):
    """A Sequential in all but its forward pass."""

    def forward(self, x):
        return x + super().forward(x)


def custom_inside_sequential():
    return nn.Sequential(nn.Linear(6, 6), Custom(batch_norm=True), nn.Tanh())


def tied():
    shared = nn.Linear(6, 6)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(6, 3))


def one_activation_used_twice():
    act = nn.Tanh()
    return nn.Sequential(nn.Linear(6, 5), act, nn.Linear(5, 5), act, nn.Linear(5, 3))


def frozen_first_layer():
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    module[0].requires_grad_(False)
    return module


def weight_normalised():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 3))


MODULES = {  # name: (build, input shape)
    "mlp": (lambda: mlp((6, 8, 7, 3), "tanh"), (6,)),
    "mlp relu": (lambda: mlp((6, 8, 3)), (6,)),
    "mlp bn": (lambda: mlp((6, 8, 7, 3), "tanh", batch_norm=True), (6,)),
    "cnn 1d": (lambda: cnn((1, 12), (4, 5), 3, "tanh"), (1, 12)),
    "cnn 1d bn": (lambda: cnn((2, 12), (4, 5), 3, "tanh", batch_norm=True), (2, 12)),
    "cnn 2d": (lambda: cnn((1, 8, 8), (4, 5), 3, "tanh"), (1, 8, 8)),
    "cnn 2d bn": (lambda: cnn((3, 8, 8), (4, 5), 3, "tanh", batch_norm=True), (3, 8, 8)),
    "custom": (Custom, (6,)),
    "custom bn": (lambda: Custom(batch_norm=True), (6,)),
    "custom bn inside": (custom_inside_sequential, (6,)),
    "torch batch norm": (lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)), (6,)),
    "batch norm first": (lambda: nn.Sequential(nn.BatchNorm1d(6, affine=False), nn.Linear(6, 3)), (6,)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)), (6,)),
    "no bias": (lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False)), (6,)),
    "grouped conv": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(12, 3)), (2, 5)),
    "grouped conv later": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 1), nn.Tanh(), nn.Conv1d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(12, 3)
        ),
        (2, 5),
    ),
    "circular padding": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(20, 3)),
        (2, 5),
    ),
    "dilated conv": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, dilation=2, padding="same"), nn.Flatten(), nn.Linear(72, 3)),
        (1, 6, 6),
    ),
    "sequential with its own forward": (lambda: nn.Sequential(Skip(nn.Linear(6, 6)), nn.Linear(6, 3)), (6,)),
    "one activation used twice": (one_activation_used_twice, (6,)),
    "tied layers": (tied, (6,)),
    "frozen first layer": (frozen_first_layer, (6,)),
    "weight norm": (weight_normalised, (6,)),
    "recurrent": (Recurrent, (5, 2)),
}


def make(name, n=10):
    build, shape = MODULES[name]
    torch.manual_seed(sum(map(ord, name)))
    module = build().double()
    theta = torch.stack([Layout.of(module).flatten(module)] * MEMBERS)
    theta = theta + 0.3 * torch.randn_like(theta)
    return module, theta, torch.randn(n, *shape, dtype=torch.float64), torch.randint(0, 3, (n,))


def one_loss(module, theta, x, y):
    """The loss of one member as everybody would write it: torch's own module, batch statistics for BatchNorm."""
    module = copy.deepcopy(module).train()
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    values, start = {}, 0
    for name, p in named:
        values[name] = theta[start : start + p.numel()].view(p.shape)
        start += p.numel()
    return F.cross_entropy(functional_call(module, values, (x,)), y)


def one_gradient(module, theta, x, y):
    theta = theta.clone().requires_grad_()
    value = one_loss(module, theta, x, y)
    (slope,) = torch.autograd.grad(value, theta)
    return value.detach(), slope


def one_curvature(module, theta, vector, x, y):
    theta = theta.clone().requires_grad_()
    (slope,) = torch.autograd.grad(one_loss(module, theta, x, y), theta, create_graph=True)
    return torch.autograd.grad(slope @ vector, theta)[0]


@pytest.mark.parametrize("name", MODULES)
def test_loss_gradient_and_logits_are_those_of_one_module_after_another(name):
    module, theta, x, y = make(name)
    problem = NetworkProblem(module, x, y)
    expected = [one_gradient(module, member, x, y) for member in theta]
    loss, gradient = ensemble.gradient(problem, theta)
    torch.testing.assert_close(loss, torch.stack([value for value, _ in expected]), **EXACT)
    torch.testing.assert_close(gradient, torch.stack([slope for _, slope in expected]), **EXACT)
    torch.testing.assert_close(ensemble.loss(problem, theta), loss, **EXACT)
    logits = problem.logits(theta)
    assert logits.shape == (MEMBERS, len(x), 3)
    torch.testing.assert_close(torch.stack([F.cross_entropy(z, y) for z in logits]), loss, **EXACT)


@pytest.mark.parametrize("name", ["mlp", "mlp bn", "cnn 1d bn", "cnn 2d", "custom", "custom bn"])
def test_hessian_vector_products_are_those_of_one_module_after_another(name):
    module, theta, x, y = make(name)
    vector = torch.randn_like(theta)
    expected = [one_curvature(module, t, v, x, y) for t, v in zip(theta, vector, strict=True)]
    # two differentiations: one more digit lost
    found = ensemble.hessian_vector(NetworkProblem(module, x, y), theta, vector)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["mlp", "mlp bn", "cnn 2d bn"])
def test_hessian_vector_products_are_differences_of_gradients(name):
    module, theta, x, y = make(name)
    problem = NetworkProblem(module, x, y)
    vector = F.normalize(torch.randn_like(theta), dim=-1)
    step = 1e-5
    forward, backward = (ensemble.gradient(problem, theta + sign * step * vector)[1] for sign in (1, -1))
    # central differences: error of order step² times a third derivative, and 1e-16 / step of rounding
    torch.testing.assert_close(
        ensemble.hessian_vector(problem, theta, vector), (forward - backward) / (2 * step), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("norm", NORMS)
def test_resnet8_is_evaluated_as_one_network_after_another(norm):
    torch.manual_seed(0)
    module = resnet(8, classes=3, norm=norm).double()
    layout = Layout.of(module)
    theta = torch.stack([layout.flatten(module)] * 2)
    theta = theta + 0.02 * torch.randn_like(theta)
    x, y = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2])
    loss, gradient = ensemble.gradient(NetworkProblem(module, x, y), theta)
    for i, member in enumerate(theta):
        value, slope = one_gradient(as_torch(module), member, x, y)
        # activations of order 1 through eight normalised layers; summed gradients of order 1
        torch.testing.assert_close(loss[i], value, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(gradient[i], slope, rtol=1e-6, atol=1e-9)


def as_torch(module):
    """The same network with torch's own BatchNorm in the place of each `Norm`."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Norm):
                kind = nn.BatchNorm1d if isinstance(parent, nn.Sequential) and _follows_linear(parent, name) else None
                norm = (kind or nn.BatchNorm2d)(len(child.weight)).double()
                norm.load_state_dict({"weight": child.weight, "bias": child.bias}, strict=False)
                setattr(parent, name, norm)
    return module


def _follows_linear(parent, name):
    names = [n for n, _ in parent.named_children()]
    before = names.index(name) - 1
    return before >= 0 and isinstance(parent.get_submodule(names[before]), nn.Linear)


def test_norm_in_an_mlp_is_batch_norm_in_training_mode():
    module, theta, x, y = make("mlp bn")
    loss = NetworkProblem(module, x, y)(theta)
    expected = torch.stack([one_loss(as_torch(module), member, x, y) for member in theta])
    torch.testing.assert_close(loss, expected, **EXACT)


@pytest.mark.parametrize("name", ["mlp", "mlp bn", "cnn 1d", "cnn 2d bn", "custom", "custom bn"])
@pytest.mark.parametrize("function", ["loss", "gradient", "hessian_vector"])
def test_any_chunk_size_gives_the_same_numbers(name, function):
    module, theta, x, y = make(name)
    problem, theta = NetworkProblem(module, x, y), torch.cat([theta, theta + 0.1])
    others = (torch.randn_like(theta),) if function == "hessian_vector" else ()

    def at(chunk):
        found = getattr(ensemble, function)(problem, theta, *others, chunk=chunk)
        return found if isinstance(found, tuple) else (found,)

    for chunk in (1, 2, 4, 5):
        for one, other in zip(at(6), at(chunk), strict=True):
            torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("name", ["mlp", "no bias", "mlp bn", "cnn 1d", "custom"])
@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_minibatches_of_their_own_are_evaluated_as_one_member_after_another(name, chunk):
    module, theta, x, y = make(name)
    rows = torch.stack([torch.randperm(len(x))[:4] for _ in theta])
    problem = NetworkProblem(module, x, y).on(rows)
    expected = [one_gradient(module, t, x[r], y[r]) for t, r in zip(theta, rows, strict=True)]
    loss, gradient = ensemble.gradient(problem, theta, chunk=chunk)
    torch.testing.assert_close(loss, torch.stack([value for value, _ in expected]), **EXACT)
    torch.testing.assert_close(gradient, torch.stack([slope for _, slope in expected]), **EXACT)


@pytest.mark.parametrize("name", ["mlp", "mlp bn", "cnn 1d bn", "cnn 2d", "custom", "custom bn"])
def test_a_shared_minibatch_equals_a_copy_of_it_for_each_member(name):
    module, theta, x, y = make(name)
    problem, rows = NetworkProblem(module, x, y), torch.tensor([3, 1, 7, 2])
    shared, copied = problem.on(rows), problem.on(rows.expand(MEMBERS, -1))
    torch.testing.assert_close(shared.logits(theta), copied.logits(theta), **EXACT)
    for one, other in zip(ensemble.gradient(shared, theta), ensemble.gradient(copied, theta), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_members_that_are_equal_have_equal_losses_and_a_batch_has_any_leading_shape():
    module, theta, x, y = make("mlp")
    problem = NetworkProblem(module, x, y)
    block = theta[:, None].expand(-1, 2, -1)
    loss = problem(block)
    assert loss.shape == (MEMBERS, 2)
    assert torch.equal(loss[:, 0], loss[:, 1])  # the same operations on the same numbers
    assert problem(theta[0]).shape == ()


def test_squared_error_is_summed_over_outputs_and_reads_labels_as_one_hot():
    module, theta, x, y = make("mlp")
    loss = NetworkProblem(module, x, y, loss="squared_error")(theta[:1])
    outputs = Layout.of(module).write(theta[0], module)(x)
    by_hand = sum(
        sum((outputs[i, c].item() - (1.0 if int(y[i]) == c else 0.0)) ** 2 for c in range(3)) for i in range(len(x))
    )
    assert loss.item() == pytest.approx(by_hand / len(x), rel=1e-12)  # thirty float64 terms
    dense = NetworkProblem(module, x, F.one_hot(y, 3).double(), loss="squared_error")
    torch.testing.assert_close(dense(theta[:1]), loss, **EXACT)
    assert dense.example_errors(dense.logits(theta)).isnan().all()  # no labels, so no error rate


def test_errors_count_the_examples_whose_largest_output_is_another():
    module, _, x, _ = make("mlp")
    logits = torch.tensor([[[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 1.0, 5.0]]])
    problem = NetworkProblem(module, x[:3], torch.tensor([0, 2, 2]))
    assert problem.example_errors(logits).tolist() == [[0.0, 1.0, 0.0]]


# --- analytic problems ------------------------------------------------------------------------------------------------


def test_the_gradient_of_rosenbrock_is_the_textbook_one():
    theta = torch.randn(5, 2, dtype=torch.float64)
    x, y = theta.unbind(-1)
    expected = torch.stack([400 * x * (x * x - y) + 2 * (x - 1), -200 * (x * x - y)], -1)
    torch.testing.assert_close(ensemble.gradient(Rosenbrock(), theta)[1], expected, **EXACT)


def test_the_hessian_of_a_quadratic_is_its_matrix_at_every_point():
    root = torch.randn(4, 4, dtype=torch.float64)
    hessian = root @ root.mT
    theta, vector = torch.randn(2, 6, 4, dtype=torch.float64)
    for chunk in (None, 1, 4):
        found = ensemble.hessian_vector(Quadratic(hessian), theta, vector, chunk=chunk)
        torch.testing.assert_close(found, vector @ hessian, **EXACT)


# --- layout -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_layout_goes_from_module_to_vector_and_back(name):
    module, theta, *_ = make(name)
    layout = Layout.of(module)
    assert layout.dim == sum(p.numel() for p in module.parameters() if p.requires_grad)
    for member in theta:
        assert torch.equal(layout.flatten(layout.write(member, module)), member)
    parts = layout.split(theta)
    assert torch.equal(torch.cat([parts[name].reshape(MEMBERS, -1) for name in layout.names], -1), theta)


def test_split_gives_views_so_that_gradients_flow_and_nothing_is_copied():
    module, theta, *_ = make("mlp")
    for part in Layout.of(module).split(theta).values():
        assert part.untyped_storage().data_ptr() == theta.untyped_storage().data_ptr()


def test_buffers_are_never_coordinates():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    assert Layout.of(module).dim == 4 * 3 + 3 + 3 + 3 + 3 * 2 + 2
    problem = NetworkProblem(module, torch.randn(5, 4), torch.zeros(5, dtype=torch.int64))
    assert problem.dim == Layout.of(module).dim
    assert list(problem.module.buffers()) == []


@pytest.mark.parametrize("name", ["mlp", "custom", "custom bn", "torch batch norm", "recurrent"])
@pytest.mark.parametrize("training", [True, False])
def test_the_callers_module_is_left_alone_and_still_trains(name, training):
    module, theta, x, y = make(name)
    module.train(training)
    before = copy.deepcopy(module.state_dict())
    modes = [m.training for m in module.modules()]
    problem = NetworkProblem(module, x, y)
    ensemble.gradient(problem, theta)
    ensemble.loss(problem, theta)
    Layout.of(module).write(theta[0], module)
    after = module.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [m.training for m in module.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert not any(m._forward_hooks for m in module.modules())
    module.train()
    F.cross_entropy(module(x), y).backward()
    assert all(p.grad is not None for p in module.parameters())


def test_a_failed_evaluation_leaves_no_hook_on_the_callers_module():
    module, theta, x, y = make("mlp")
    with pytest.raises(RuntimeError):
        ensemble.loss(NetworkProblem(module, x[:, :-1], y), theta)
    assert not any(m._forward_hooks for m in module.modules())


def test_initial_is_torchs_initialisation_under_each_seed_and_leaves_the_random_state_alone():
    torch.manual_seed(9)
    expected_next = torch.rand(1)
    torch.manual_seed(9)
    theta = initial(lambda: mlp((6, 5, 3)), [4, 5, 4])
    assert torch.equal(torch.rand(1), expected_next)
    assert torch.equal(theta[0], theta[2])
    assert not torch.equal(theta[0], theta[1])
    torch.manual_seed(5)
    alone = mlp((6, 5, 3))
    assert torch.equal(theta[1], Layout.of(alone).flatten(alone))
    assert torch.equal(ensemble.stack([alone, alone])[1], theta[1])


# --- BatchNorm statistics ---------------------------------------------------------------------------------------------


def norm_only(features=2):
    return nn.Sequential(nn.Linear(features, features), Norm(features))


def identity_theta(problem):
    parts = {
        "0.weight": torch.eye(2, dtype=torch.float64),
        "0.bias": torch.zeros(2, dtype=torch.float64),
        "1.weight": torch.ones(2, dtype=torch.float64),
        "1.bias": torch.zeros(2, dtype=torch.float64),
    }
    return torch.cat([parts[name].flatten() for name in problem.layout.names])[None]


@pytest.mark.parametrize("batches", [1, 3, 20])
@pytest.mark.parametrize("momentum", [0.1, 0.3])
def test_ema_of_constant_activations_keeps_the_reset_values_by_the_power_rule(batches, momentum):
    x = torch.tensor([[2.0, -3.0]], dtype=torch.float64).expand(4 * batches, 2)
    problem = NetworkProblem(norm_only().double(), x, torch.zeros(4 * batches, dtype=torch.int64))
    rows = torch.arange(4 * batches).split(4)
    (found,) = ema_moments(problem, rows, momentum)(identity_theta(problem)).values()
    kept = (1 - momentum) ** batches
    # running mean starts at 0, running variance at 1, and constant rows have variance 0
    torch.testing.assert_close(found.mean, (1 - kept) * x[:1], rtol=1e-12, atol=0)
    torch.testing.assert_close(found.var, torch.full((1, 2), kept, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["mlp bn", "cnn 1d bn", "cnn 2d bn", "custom bn"])
def test_ema_is_a_real_batch_norm_run_over_the_same_batches_and_then_switched_to_eval(kind):
    module, theta, x, y = make(kind, n=14)
    rows = torch.randperm(14).split(4)[:3]
    problem = NetworkProblem(module, x, y)
    averaged = NetworkProblem(problem.module, x, y, moments=ema_moments(problem, rows))
    plain = module if kind == "custom bn" else as_torch_any(module, x.dim())
    for i, member in enumerate(theta):
        real = Layout.of(plain).write(member, plain)
        for layer in real.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.reset_running_stats()
        real.train()
        with torch.no_grad():
            for batch in rows:
                real(x[batch])
            expected = real.eval()(x)
        torch.testing.assert_close(averaged.logits(theta)[i], expected, **EXACT)


def as_torch_any(module, dims):
    module = copy.deepcopy(module)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[dims]
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Norm):
                norm = kind(len(child.weight)).double()
                norm.load_state_dict({"weight": child.weight, "bias": child.bias}, strict=False)
                setattr(parent, name, norm)
    return module


@pytest.mark.parametrize("kind", ["mlp bn", "cnn 2d bn", "custom bn"])
def test_exact_statistics_do_not_depend_on_the_order_of_the_rows(kind):
    module, theta, x, y = make(kind, n=14)
    problem = NetworkProblem(module, x, y)
    order = torch.randperm(14)
    shuffled = NetworkProblem(problem.module, x[order], y[order])
    for one, other in zip(exact_moments(problem)(theta).values(), exact_moments(shuffled)(theta).values(), strict=True):
        torch.testing.assert_close(one.mean, other.mean, **EXACT)
        torch.testing.assert_close(one.var, other.var, **EXACT)
    torch.testing.assert_close(problem(theta), shuffled(theta), **EXACT)


@pytest.mark.parametrize("kind", ["mlp bn", "cnn 1d bn", "custom bn"])
def test_exact_statistics_make_the_rows_of_a_problem_independent_of_each_other(kind):
    module, theta, x, y = make(kind, n=14)
    problem = NetworkProblem(module, x, y)
    fixed = NetworkProblem(problem.module, x, y, moments=exact_moments(problem))
    whole = fixed.logits(theta)
    torch.testing.assert_close(whole, problem.logits(theta), **EXACT)  # training mode on all rows
    for rows in (torch.arange(1), torch.tensor([5, 2, 9])):
        torch.testing.assert_close(fixed.on(rows).logits(theta), whole[:, rows], **EXACT)


def test_statistics_belong_to_the_point_and_gamma_and_beta_are_coordinates():
    module, theta, x, y = make("mlp bn")
    problem = NetworkProblem(module, x, y)
    names = problem.layout.names
    assert "2.weight" in names
    assert "2.bias" in names
    # scaling the layer below a normalisation changes nothing but through eps = 1e-5
    parts = {name: value.clone() for name, value in problem.layout.split(theta).items()}
    for name in ("1.weight", "1.bias"):
        parts[name] *= 1e4
    scaled = torch.cat([parts[name].flatten(1) for name in names], -1)
    parts["1.weight"] *= 10
    parts["1.bias"] *= 10
    more = torch.cat([parts[name].flatten(1) for name in names], -1)
    torch.testing.assert_close(problem(scaled), problem(more), rtol=1e-9, atol=0)  # eps / variance under 1e-12


# --- rows, blocks, devices --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "cnn 2d", "custom"])
def test_row_blocks_cover_every_row_once_in_order(name, monkeypatch):
    module, theta, x, y = make(name, n=23)
    monkeypatch.setattr(ensemble, "CACHE_BYTES", 4 * NetworkProblem(module, x, y).row_numel * 8)
    problem = NetworkProblem(module, x, y)
    blocks = problem.blocks()
    assert len(blocks) > 1
    assert torch.equal(torch.cat([b.x for b in blocks]), x)
    assert torch.equal(torch.cat([b.y for b in blocks]), y)
    total = sum(b.example_losses(b.logits(theta)).sum(-1) for b in blocks) / 23
    torch.testing.assert_close(total, problem(theta), **EXACT)
    assert len(problem.blocks(members=2)) > len(blocks)


def test_rows_that_share_statistics_are_never_cut(monkeypatch):
    module, _, x, y = make("mlp bn")
    monkeypatch.setattr(ensemble, "CACHE_BYTES", 1)
    problem = NetworkProblem(module, x, y)
    assert len(problem.blocks()) == 1
    fixed = NetworkProblem(problem.module, x, y, moments=exact_moments(problem))
    assert len(fixed.blocks()) == len(x)


def test_a_minibatch_has_distinct_rows_and_repeats_with_its_generator():
    module, _, x, y = make("mlp", n=30)
    problem = NetworkProblem(module, x, y)
    one, again, other = (problem.minibatch(12, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one.x, again.x)
    assert not torch.equal(one.x, other.x)
    places = [int((x == row).all(-1).nonzero()) for row in one.x]
    assert len(set(places)) == 12
    assert torch.equal(y[places], one.y)
    assert one.rows == 12


def test_a_row_choice_within_own_rows_never_takes_members_for_rows():
    module, theta, x, y = make("mlp")
    own = NetworkProblem(module, x, y).on(torch.arange(9).view(3, 3))
    try:
        chosen = own.on(torch.tensor([0, 1]))
    except LossAtlasError:
        return  # a refusal is as good
    assert chosen.rows == 2
    torch.testing.assert_close(chosen.logits(theta), own.logits(theta)[:, :2], **EXACT)


def test_the_same_problem_in_double_precision_is_the_same_function():
    torch.manual_seed(0)
    module = mlp((6, 8, 3), batch_norm=True)
    problem = NetworkProblem(module, torch.randn(20, 6), torch.randint(0, 3, (20,)))
    theta = initial(lambda: mlp((6, 8, 3), batch_norm=True), [0, 1])
    double = problem.to(dtype=torch.float64)
    # float32 carries 24 bits; losses are of order 1
    torch.testing.assert_close(problem(theta).double(), double(theta.double()), rtol=1e-5, atol=1e-6)
    assert next(module.parameters()).dtype == torch.float32


def test_token_inputs_stay_integers_in_another_precision():
    module = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 3))
    problem = NetworkProblem(module, torch.randint(0, 7, (5, 3)), torch.zeros(5, dtype=torch.int64))
    theta = ensemble.stack([module, module])
    expected = torch.stack([F.cross_entropy(module(problem.x), problem.y)] * 2).double()
    # float32 against float64, losses of order 1
    torch.testing.assert_close(problem.to(dtype=torch.float64)(theta.double()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("numel", [1, 10, 10**9])
def test_a_chunk_holds_at_least_one_member_and_fits_the_cache(numel, monkeypatch):
    class Problem:
        dim = 2
        activation_numel = numel

    monkeypatch.setattr(ensemble, "CACHE_BYTES", 800)
    size = ensemble.chunk_size(Problem(), torch.zeros(3, 2, dtype=torch.float64))
    assert size == 1 or size * numel * 8 <= 800
    assert (size + 1) * numel * 8 > 800


# --- sentences for people ---------------------------------------------------------------------------------------------


def test_an_unknown_loss_is_named_with_those_there_are():
    module, _, x, y = make("mlp")
    with pytest.raises(LossAtlasError, match=r"hinge.*cross_entropy.*squared_error"):
        NetworkProblem(module, x, y, loss="hinge")


def test_moving_a_problem_with_moments_is_refused():
    module, _, x, y = make("mlp bn")
    problem = NetworkProblem(module, x, y)
    fixed = NetworkProblem(problem.module, x, y, moments=exact_moments(problem))
    with pytest.raises(LossAtlasError, match="moments"):
        fixed.to(dtype=torch.float64)


def test_named_children_keep_their_names_in_the_layout():
    module = nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.Tanh(), c=nn.Linear(3, 1)))
    assert Layout.of(module).names == ("a.weight", "a.bias", "c.weight", "c.bias")
