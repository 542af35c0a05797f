"""The batched trainer against torch.optim run member by member, and what a kill or a divergence leaves behind."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from lossatlas import training
from lossatlas.checkpoint import Checkpoint
from lossatlas.ensemble import Layout
from lossatlas.errors import LossAtlasError
from lossatlas.minibatches import minibatch_rows
from lossatlas.problems import Booth, Quadratic, Rosenbrock
from lossatlas.problems.architectures import cnn, mlp
from lossatlas.problems.network import NetworkProblem, initial
from lossatlas.training import OPTIMIZERS, Recipe, steps_per_epoch, train

ROWS = 26


def network(k=3, dtype=torch.float64, build=lambda: mlp((5, 7, 3), "tanh"), shape=(5,)):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, *shape, generator=generator)
    y = torch.randint(0, 3, (ROWS,), generator=generator)
    theta = initial(build, range(k)).to(dtype)
    return NetworkProblem(build(), x, y).to(dtype=dtype), theta


def torch_optimizer(name, parameters, rate, recipe):
    decay = recipe.weight_decay
    return {
        "sgd": lambda: torch.optim.SGD(parameters, rate, weight_decay=decay),
        "momentum": lambda: torch.optim.SGD(parameters, rate, momentum=recipe.momentum, weight_decay=decay),
        "adagrad": lambda: torch.optim.Adagrad(parameters, rate, weight_decay=decay),
        "rmsprop": lambda: torch.optim.RMSprop(parameters, rate, weight_decay=decay),
        "adam": lambda: torch.optim.Adam(parameters, rate, betas=(recipe.momentum, 0.999), weight_decay=decay),
    }[name]()


def torch_schedule(optimizer, recipe):
    if recipe.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    steps = [round(share * recipe.steps) for share in recipe.milestones]
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, steps, recipe.factor)


def one_by_one(problem, start, recipe, rate, order):
    """A user's training loop: one network, torch's optimiser and scheduler, one minibatch after another."""
    layout = Layout.of(problem.module)
    module = layout.write(start, problem.module)
    optimizer = torch_optimizer(recipe.optimizer, list(module.parameters()), rate, recipe)
    scheduler = torch_schedule(optimizer, recipe)
    step, epoch = 0, 0
    while step < recipe.steps:
        batches = [None] if recipe.batch_size is None else minibatch_rows(ROWS, recipe.batch_size, [order], epoch)
        for rows in batches:
            if step == recipe.steps:
                break
            x, y = (problem.x, problem.y) if rows is None else (problem.x[rows], problem.y[rows])
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
            scheduler.step()
            step += 1
        epoch += 1
    return layout.flatten(module)


@pytest.mark.parametrize("schedule", ["constant", "milestones", "cosine"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_member_walks_as_torchs_own_optimiser_with_its_own_rate(name, schedule):
    problem, theta = network()
    rates = torch.tensor([0.1, 0.03, 0.002], dtype=torch.float64)
    milestones = (0.25, 0.5) if schedule == "milestones" else ()
    recipe = Recipe(name, 60, 8, 0.8, weight_decay=0.01, schedule=schedule, milestones=milestones, factor=0.3)
    found = train(problem, theta, recipe, rates, orders=[5, 6, 5]).final
    for i, order in enumerate([5, 6, 5]):
        expected = one_by_one(problem, theta[i], recipe, float(rates[i]), order)
        # 60 float64 steps; dividing by the root of squared gradients magnifies rounding where they are small
        torch.testing.assert_close(found[i], expected, rtol=1e-6, atol=1e-9)


def test_rate_may_be_one_number_and_batches_all_rows():
    problem, theta = network()
    recipe = Recipe("momentum", 25)
    found = train(problem, theta, recipe, 0.05).final
    for start, end in zip(theta, found, strict=True):
        torch.testing.assert_close(end, one_by_one(problem, start, recipe, 0.05, 0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_network_learns_and_the_ends_are_reported(optimizer):
    problem, theta = network()
    found = train(problem, theta, Recipe(optimizer, 60, 13), 0.02)
    assert torch.equal(found.initial, theta)
    assert (problem(found.final) < problem(theta)).all()
    assert (found.diverged_at == -1).all()
    assert found.losses.shape == (3, 30)


# --- analytic problems ------------------------------------------------------------------------------------------------


def test_gradient_descent_on_a_quadratic_has_its_closed_form():
    root = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hessian = root @ root.mT / 4
    theta = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    spectrum, vectors = torch.linalg.eigh(hessian)
    rates = torch.tensor([0.1, 0.02, 0.3], dtype=torch.float64)
    found = train(Quadratic(hessian), theta, Recipe("sgd", 40), rates).final
    expected = (theta @ vectors * (1 - rates[:, None] * spectrum) ** 40) @ vectors.mT
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)  # 40 float64 products


def test_losses_are_those_before_each_step():
    spectrum = torch.tensor([1.0, 0.2], dtype=torch.float64)
    theta = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    losses = train(Quadratic(spectrum), theta, Recipe("sgd", 7), 0.5).losses
    steps = torch.arange(7)[:, None, None]
    expected = 0.5 * (spectrum * (theta * (1 - 0.5 * spectrum) ** steps).square()).sum(-1).T
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)


def test_heavy_ball_follows_its_recurrence_on_booth():
    theta = torch.tensor([[0.0, 0.0], [2.0, -1.0]], dtype=torch.float64)
    found = train(Booth(), theta, Recipe("momentum", 30, momentum=0.7), 0.02).final
    for start, end in zip(theta.tolist(), found.tolist(), strict=True):
        (x, y), (vx, vy) = start, (0.0, 0.0)
        for _ in range(30):
            gx = 2 * (x + 2 * y - 7) + 4 * (2 * x + y - 5)
            gy = 4 * (x + 2 * y - 7) + 2 * (2 * x + y - 5)
            vx, vy = 0.7 * vx + gx, 0.7 * vy + gy
            x, y = x - 0.02 * vx, y - 0.02 * vy
        assert end == pytest.approx([x, y], rel=1e-10)  # 30 float64 steps


def test_adam_descends_rosenbrocks_valley():
    theta = torch.tensor([[-1.2, 1.0], [0.0, 0.5]], dtype=torch.float64)
    found = train(Rosenbrock(), theta, Recipe("adam", 800), torch.tensor([0.05, 0.03], dtype=torch.float64))
    assert (Rosenbrock()(found.final) < 0.01 * Rosenbrock()(theta)).all()


def test_weight_decay_is_the_gradient_of_half_its_square_norm():
    spectrum = torch.tensor([1.0, 0.2], dtype=torch.float64)
    theta = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    decayed = train(Quadratic(spectrum), theta, Recipe("momentum", 30, weight_decay=0.3), 0.1).final
    steeper = train(Quadratic(spectrum + 0.3), theta, Recipe("momentum", 30), 0.1).final
    torch.testing.assert_close(decayed, steeper, rtol=1e-10, atol=1e-14)


def test_the_penalty_is_added_with_its_gradient_and_to_the_reported_loss():
    spectrum = torch.tensor([1.0, 0.2], dtype=torch.float64)
    theta = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)
    strength = torch.tensor([0.4, 0.0], dtype=torch.float64)
    pulled = train(
        Quadratic(spectrum),
        theta,
        Recipe("sgd", 30),
        0.1,
        penalty=lambda t: 0.5 * strength * (t - 1).square().sum(-1),
    )
    for i, c in enumerate(strength):
        hessian, centre = spectrum + c, c / (spectrum + c)  # completed square
        expected = centre + (theta[i] - centre) * (1 - 0.1 * hessian) ** 30
        torch.testing.assert_close(pulled.final[i], expected, rtol=1e-10, atol=1e-14)
    first = 0.5 * (spectrum * theta.square()).sum(-1) + 0.5 * strength * (theta - 1).square().sum(-1)
    torch.testing.assert_close(pulled.losses[:, 0], first, rtol=1e-12, atol=0)


# --- schedules --------------------------------------------------------------------------------------------------------


def test_schedules_start_at_one_and_fall_as_they_say():
    constant, cosine = Recipe(steps=10), Recipe(steps=10, schedule="cosine")
    steps = Recipe(steps=10, schedule="milestones", milestones=(0.3, 0.6, 0.9), factor=0.5)
    assert [constant.rate_factor(t) for t in range(10)] == [1.0] * 10
    assert [steps.rate_factor(t) for t in range(10)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    for t in range(10):
        assert cosine.rate_factor(t) == pytest.approx((1 + math.cos(math.pi * t / 10)) / 2, rel=1e-15)


@pytest.mark.parametrize(
    ("settings", "names"),
    [({"optimizer": "lion"}, "lion.*sgd.*adam"), ({"schedule": "linear"}, "linear.*constant.*cosine")],
)
def test_unknown_settings_are_named_with_those_there_are(settings, names):
    with pytest.raises(LossAtlasError, match=names):
        Recipe(**settings)


def test_a_batch_larger_than_the_data_is_refused():
    problem, theta = network()
    with pytest.raises(LossAtlasError, match=f"27.*{ROWS}"):
        train(problem, theta, Recipe(batch_size=27, steps=3), 0.1)


# --- data orders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5, 26])
def test_an_epoch_takes_each_row_at_most_once_and_all_that_fit(batch):
    for epoch in range(3):
        batches = list(minibatch_rows(ROWS, batch, [3], epoch))
        rows = torch.cat(batches).tolist()
        assert len(rows) == len(set(rows)) == ROWS // batch * batch
        assert set(rows) <= set(range(ROWS))
        assert {len(b) for b in batches} == {batch}
        assert len(batches) == steps_per_epoch(network()[0], Recipe(batch_size=batch))


def test_an_order_is_named_by_its_number_and_epoch_alone():
    def order(orders, epoch):
        return torch.cat(list(minibatch_rows(ROWS, 5, orders, epoch)), -1)

    assert torch.equal(order([7], 2), order([7, 7], 2))
    both = order([7, 8, 7], 2)
    assert torch.equal(both[0], order([7], 2))
    assert torch.equal(both[1], order([8], 2))
    assert torch.equal(both[2], both[0])
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(order([7], 2), order([7], 3))
    torch.manual_seed(1)
    first = order([7], 2)
    torch.manual_seed(2)
    assert torch.equal(first, order([7], 2))


BUILDS = {
    "mlp": (lambda: mlp((5, 16, 3)), (5,)),
    "mlp bn": (lambda: mlp((5, 16, 3), batch_norm=True), (5,)),
    "cnn": (lambda: cnn((1, 12), (4,), 3), (1, 12)),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("build", BUILDS)
def test_further_members_move_no_bit_of_those_with_orders_of_their_own(optimizer, build):
    problem, theta = network(8, torch.float32, *BUILDS[build])
    recipe, rates = Recipe(optimizer, 30, 8), torch.linspace(0.01, 0.1, 8)
    many = train(problem, theta, recipe, rates, orders=range(8))
    for k in (2, 3, 5):
        few = train(problem, theta[:k], recipe, rates[:k], orders=range(k))
        assert torch.equal(few.final, many.final[:k])
        assert torch.equal(few.losses, many.losses[:k])


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("own_orders", [False, True])
def test_further_members_change_a_member_by_rounding_alone(build, own_orders):
    # one order for all shares the first matrix product, whose summation may depend on the number of members
    problem, theta = network(8, torch.float64, *BUILDS[build])
    orders, recipe = list(range(8)) if own_orders else [0] * 8, Recipe("momentum", 30, 8)
    many = train(problem, theta, recipe, 0.05, orders=orders)
    for k in (1, 3):
        few = train(problem, theta[:k], recipe, 0.05, orders=orders[:k])
        # 30 float64 steps of a stable training
        torch.testing.assert_close(few.final, many.final[:k], rtol=1e-10, atol=1e-12)


def test_seeds_act_and_repeat():
    problem, theta = network()
    recipe = Recipe("momentum", 20, 8)
    one, again = (train(problem, theta, recipe, 0.1, orders=[1, 2, 3]) for _ in range(2))
    other = train(problem, theta, recipe, 0.1, orders=[1, 2, 4])
    assert torch.equal(one.final, again.final)
    assert torch.equal(one.losses, again.losses)
    assert torch.equal(one.final[:2], other.final[:2])
    assert not torch.equal(one.final[2], other.final[2])


def test_the_caller_keeps_its_parameters_and_its_random_state():
    problem, theta = network()
    before, state = theta.clone(), torch.get_rng_state()
    found = train(problem, theta, Recipe("adam", 5, 8), 0.1)
    assert torch.equal(theta, before)
    assert not theta.requires_grad
    assert not found.final.requires_grad
    assert torch.equal(state, torch.get_rng_state())


# --- what is recorded -------------------------------------------------------------------------------------------------


def test_kept_parameters_are_those_of_a_training_that_ends_there():
    problem, theta = network()
    found = train(problem, theta, Recipe("adam", 11, 8), 0.05, keep=[1, 4, 11])
    assert sorted(found.kept) == [1, 4, 11]
    for steps, kept in found.kept.items():
        assert torch.equal(kept, train(problem, theta, Recipe("adam", steps, 8), 0.05).final)


def test_epoch_losses_are_means_over_the_minibatches_also_of_an_incomplete_last_epoch():
    spectrum = torch.tensor([1.0], dtype=torch.float64)

    class Rows(Quadratic):  # three minibatches an epoch, all alike, so that the losses have a closed form
        rows, x = 6, torch.zeros(1)

        def on(self, rows):
            return self

    theta = torch.tensor([[2.0]], dtype=torch.float64)
    losses = train(Rows(spectrum), theta, Recipe("sgd", 5, 2), 0.5).losses
    each = [0.5 * (2 * 0.5**t) ** 2 for t in range(5)]
    assert losses[0].tolist() == pytest.approx([sum(each[:3]) / 3, sum(each[3:]) / 2], rel=1e-12)


class Cliff:
    """½ |theta|², not finite for the members that are beyond |theta| = 100."""

    dim = 2

    def __call__(self, theta):
        value = 0.5 * theta.square().sum(-1)
        return torch.where(theta.norm(dim=-1) > 100, torch.inf, 1.0) * value


def test_divergence_is_recorded_at_its_step_and_the_member_stays_where_it_was():
    # theta_t = (1 - 3)^t = (-2)^t per coordinate, norm sqrt(2) 2^t > 100 first at t = 7
    theta = torch.ones(3, 2, dtype=torch.float64)
    rates = torch.tensor([0.1, 3.0, 0.5], dtype=torch.float64)
    found = train(Cliff(), theta, Recipe("sgd", 12), rates)
    assert found.diverged_at.tolist() == [-1, 7, -1]
    assert found.final[1].tolist() == [-(2.0**7)] * 2
    assert found.losses[1].isnan().tolist() == [False] * 7 + [True] * 5
    assert found.losses[[0, 2]].isfinite().all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_member_that_diverges_moves_no_bit_of_the_others(optimizer):
    problem, theta = network(4, torch.float32)
    bad = theta.clone()
    bad[2] = torch.inf
    recipe = Recipe(optimizer, 20, 8)
    good, mixed = (train(problem, t, recipe, 0.05, orders=range(4)) for t in (theta, bad))
    others = [0, 1, 3]
    assert mixed.diverged_at.tolist() == [-1, -1, 0, -1]
    assert torch.equal(good.final[others], mixed.final[others])
    assert torch.equal(good.losses[others], mixed.losses[others])
    assert mixed.losses[2].isnan().all()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_a_diverged_member_ends_where_it_last_was_finite(optimizer):
    # the first step is finite in loss and gradient but leads out of float32's range
    theta = torch.full((2, 2), 1e10)
    found = train(Quadratic(torch.ones(2)), theta, Recipe(optimizer, 5), torch.tensor([1e-3, 1e30]))
    assert found.diverged_at[0] == -1
    assert found.diverged_at[1] >= 0
    assert found.final.isfinite().all()


def test_a_gradient_that_is_not_finite_is_divergence_too():
    class Root:
        dim = 1

        def __call__(self, theta):  # slope infinite at 0, where the value is finite
            return theta[..., 0].abs().sqrt()

    found = train(Root(), torch.tensor([[0.0], [1.0]]), Recipe("sgd", 2), 0.01)
    assert found.diverged_at.tolist() == [0, -1]
    assert found.final[0].tolist() == [0.0]


# --- cut short --------------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def kill_after(count):
    calls = 0

    def progress(done, total):
        nonlocal calls
        calls += 1
        assert 0 < done <= total
        if calls >= count:
            raise Killed

    return progress


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_cut_at_any_epochs_goes_on_bit_for_bit(optimizer, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    problem, theta = network(4, torch.float32)
    theta[3] = torch.inf  # a diverged member is part of the state
    recipe = Recipe(optimizer, 20, 8, weight_decay=0.01, schedule="milestones", milestones=(0.2, 0.6))
    settings = {"orders": [0, 1, 2, 3], "keep": [2, 9, 17]}
    rates = torch.tensor([0.1, 0.01, 0.05, 0.1])
    whole = train(problem, theta, recipe, rates, **settings)
    store = Checkpoint(tmp_path / "training.npz", {"seed": 1}, "code")
    steps = []
    for epochs in (1, 2, 1, 1):
        with pytest.raises(Killed):
            train(problem, theta, recipe, rates, store=store, progress=kill_after(epochs), **settings)
        steps.append(store.load()["step"])
    assert steps == [3, 9, 12, 15]  # nothing but the running epoch was lost
    found = train(problem, theta, recipe, rates, store=store, **settings)
    for name in ("initial", "final", "losses", "diverged_at"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=0, atol=0, equal_nan=True)
    assert sorted(found.kept) == sorted(whole.kept)
    assert all(torch.equal(found.kept[step], whole.kept[step]) for step in (2, 9))


def test_a_training_that_is_saved_at_every_epoch_is_the_one_that_is_never_saved(tmp_path, monkeypatch):
    problem, theta = network(2)
    recipe = Recipe("adam", 12, 8)
    plain = train(problem, theta, recipe, 0.05)
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    saved = train(problem, theta, recipe, 0.05, store=Checkpoint(tmp_path / "t.npz", {}, "code"))
    assert torch.equal(plain.final, saved.final)


def test_progress_ends_at_the_number_of_steps():
    problem, theta = network(2)
    seen = []
    train(problem, theta, Recipe("sgd", 7, 8), 0.1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_a_training_is_what_it_is_whatever_the_global_random_state():
    problem, theta = network(2)
    results = []
    for s in (0, 1):
        torch.manual_seed(s)
        results.append(train(problem, theta, Recipe("momentum", 9, 8), 0.1, orders=[0, 1]).final)
    assert torch.equal(*results)


def test_a_member_without_batch_axis_of_its_own_matches_a_functional_call():
    # the loss that is minimised is the mean over the minibatch, not its sum
    problem, theta = network(1)
    rows = next(iter(minibatch_rows(ROWS, 8, [4], 0)))
    start = theta[0].clone().requires_grad_()
    parts = Layout.of(problem.module).split(start)
    F.cross_entropy(
        functional_call(copy.deepcopy(problem.module), parts, (problem.x[rows],)), problem.y[rows]
    ).backward()
    found = train(problem, theta, Recipe("sgd", 1, 8), 0.25, orders=[4]).final[0]
    torch.testing.assert_close(found, theta[0] - 0.25 * start.grad, rtol=1e-12, atol=1e-14)
