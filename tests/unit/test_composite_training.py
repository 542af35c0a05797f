"""Measuring and training on several losses against the plain loop that anyone would write, in float64."""

import pytest
import torch
from torch import nn

from lossatlas import composite
from lossatlas.composite import goals
from lossatlas.composite.balancers import OnGramian, Static
from lossatlas.composite.training import measure, train
from lossatlas.errors import LossAtlasError
from lossatlas.problems.architectures import mlp
from lossatlas.problems.autoencoder import AutoencoderProblem, Patches, Pca, convolutional, dense, patchwise
from lossatlas.problems.classifier import LOSSES, ClassifierProblem
from lossatlas.problems.network import NetworkProblem, initial
from lossatlas.training import Recipe

GOALS = ("mse", "ssim", "mean", "covariance", "sliced")
SHAPE = (1, 6, 6)


def autoencoder(k=2, rows=8):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(rows, *SHAPE, generator=generator, dtype=torch.float64)
    directions = goals.unit_directions(3, 3, generator).double()

    def build():
        return dense(SHAPE, (7,), 3)

    problem = AutoencoderProblem(build(), x, GOALS, directions)
    return problem, initial(build, range(k)).double()


def classifier(k=2):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(4, (12,), generator=generator)
    network = NetworkProblem(mlp((5, 6, 4)), x, y)
    return ClassifierProblem(network), initial(lambda: mlp((5, 6, 4)), range(k)).double()


PROBLEMS = {"autoencoder": autoencoder, "classifier": classifier}


def slow_jacobian(problem, theta):
    """Losses (n,) and gradients (n, P) of one member, one backward pass through everything for each loss."""
    theta = theta[None].clone().requires_grad_()
    losses = [goal(problem.outputs(theta))[0] for goal in problem.goal_functions()]
    rows = [torch.autograd.grad(loss, theta, retain_graph=True)[0][0] for loss in losses]
    return torch.stack(losses).detach(), torch.stack(rows)


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("at", ["outputs", "items", "parameters"])
def test_any_place_gives_the_same_losses_and_the_same_weighted_gradient(kind, at):
    problem, theta = PROBLEMS[kind]()
    found = measure(problem, theta, at)
    weights = torch.rand(found.losses.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    there = found.at_parameters()
    direction = found.pull_back(weights)
    for i, member in enumerate(theta):
        losses, jacobian = slow_jacobian(problem, member)
        assert (found.losses[i] - losses).abs().max() < 1e-12
        assert (direction[i] - weights[i] @ jacobian).abs().max() < 1e-12
        assert (there[i] - jacobian @ jacobian.mT).abs().max() < 1e-12
        if at == "parameters":
            assert (found.gramian[i] - jacobian @ jacobian.mT).abs().max() < 1e-12
            assert (found.norms[i] - jacobian.norm(dim=-1)).abs().max() < 1e-12


def test_norms_at_the_outputs_are_those_of_the_derivatives_there():
    problem, theta = autoencoder(k=1)
    outputs = [o.detach().requires_grad_() for o in problem.outputs(theta)]
    whole, by_item = measure(problem, theta), measure(problem, theta, "items")
    for i, goal in enumerate(problem.goal_functions()):
        slopes = [s for s in torch.autograd.grad(goal(outputs).sum(), outputs, allow_unused=True) if s is not None]
        assert len(slopes) == 1  # reconstruction goals see the image, latent goals the codes
        assert whole.norms[0, i].item() == pytest.approx(slopes[0].norm().item())
        assert by_item.norms[0, i].item() == pytest.approx(slopes[0][0].flatten(1).norm(dim=1).mean().item())
    assert whole.gramian[0, :2, 2:].abs().max() == 0  # so the two kinds are orthogonal there


@pytest.mark.parametrize("q", [0.0, 1.0])
def test_training_is_the_plain_loop(q):
    problem, theta = autoencoder()
    weighting = OnGramian(composite.PowerWeighting(q))
    found = train(problem, theta, weighting, Recipe("adam", steps=12), 0.01, at="parameters", look_every=4, keep=(5,))
    for i, member in enumerate(theta):
        moved = member.clone().requires_grad_()
        optimizer = torch.optim.Adam([moved], lr=0.01)
        for step in range(12):
            losses, jacobian = slow_jacobian(problem, moved.detach())
            norms = jacobian.norm(dim=-1)
            weights = norms**q / (norms**q).sum()
            assert (found.losses[step, i] - losses).abs().max() < 1e-9
            assert (found.weights[step, i] - weights).abs().max() < 1e-9
            moved.grad = weights @ jacobian
            optimizer.step()
            if step == 4:
                assert (found.kept[5][i] - moved).abs().max() < 1e-9
        assert (found.final[i] - moved).abs().max() < 1e-9
    assert found.looked.tolist() == [0, 4, 8, 11]
    assert found.passes == len(GOALS)


def test_members_do_not_depend_on_each_other_and_constants_on_nothing():
    problem, theta = autoencoder(k=3)
    recipe, weighting = Recipe("adam", steps=6, batch_size=4), OnGramian(composite.PowerWeighting(1.0))
    together = train(problem, theta, weighting, recipe, torch.tensor([0.01, 0.02, 0.03]).double(), orders=[0, 1, 2])
    alone = train(problem, theta[1:2], weighting, recipe, torch.tensor([0.02]).double(), orders=[1])
    assert (together.final[1] - alone.final[0]).abs().max() < 1e-12
    functions = problem.goal_functions()
    object.__setattr__(problem, "goal_functions", lambda: [lambda o, f=f: f(o) + 100 for f in functions])
    whole = Recipe("adam", steps=6)
    shifted = train(problem, theta, weighting, whole, 0.01)
    object.__delattr__(problem, "goal_functions")
    assert torch.equal(shifted.final, train(problem, theta, weighting, whole, 0.01).final)


@pytest.mark.parametrize("q", [-2.0, 0.0, 1.0, float("inf")])
def test_a_constant_loss_has_no_say_for_positive_q_and_breaks_nothing(q):
    problem, theta = autoencoder()
    functions = [*problem.goal_functions(), lambda outputs: 3 + 0 * outputs[0].flatten(1).sum(1)]
    object.__setattr__(problem, "goal_functions", lambda: functions)
    found = train(problem, theta, OnGramian(composite.PowerWeighting(q)), Recipe("sgd", steps=3), 0.01)
    assert found.final.isfinite().all()
    assert found.weights.isfinite().all()
    assert (found.diverged_at == -1).all()
    if q > 0:
        assert found.weights[..., -1].max() < 1e-6


def test_the_attention_leaves_a_goal_that_has_bottomed_out():
    """w_i falls to 0 with ‖g_i‖ for q > 0, and the other weights take what it leaves."""
    problem, theta = autoencoder(k=1)
    functions = problem.goal_functions()
    shares = []
    for scale in (1.0, 1e-2, 1e-4):
        scaled = [lambda o, f=functions[0], s=scale: s * f(o), *functions[1:]]
        object.__setattr__(problem, "goal_functions", lambda scaled=scaled: scaled)
        weights = composite.PowerWeighting(1.0)(measure(problem, theta).gramian)[0]
        shares.append((weights[0].item(), weights[1:].sum().item()))
    assert shares[0][0] > shares[1][0] > shares[2][0]
    assert shares[2][0] < 1e-3
    assert shares[2][1] == pytest.approx(1, abs=1e-3)


def test_a_member_that_diverges_stays_and_is_recorded():
    problem, theta = autoencoder()
    broken = theta.clone()
    broken[1, 0] = float("nan")
    found = train(problem, broken, OnGramian(composite.upgrad), Recipe("sgd", steps=3), 0.01, at="parameters")
    assert found.diverged_at.tolist() == [-1, 0]
    assert found.losses[:, 1].isnan().all()
    assert found.losses[:, 0].isfinite().all()
    assert torch.equal(found.final[1].isnan(), broken[1].isnan())


def test_negative_weights_of_an_aggregator_are_used_as_they_are():
    problem, theta = autoencoder(k=1)
    weights = torch.tensor([-1.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    found = train(problem, theta, Static(weights), Recipe("sgd", steps=1), 1.0)
    _, jacobian = slow_jacobian(problem, theta[0])
    assert (theta[0] - found.final[0] - weights @ jacobian).abs().max() < 1e-12


def test_noise_is_reproducible_and_has_the_variance_of_switching():
    problem, theta = autoencoder(k=1)
    many = theta.expand(400, -1)
    recipe, mean = Recipe("sgd", steps=1), Static(1 / len(GOALS))

    def noisy(seed):
        return train(problem, many, mean, recipe, 1.0, at="parameters", noise=torch.Generator().manual_seed(seed)).final

    assert torch.equal(noisy(1), noisy(1))
    _, jacobian = slow_jacobian(problem, theta[0])
    spread = (jacobian - jacobian.mean(0)).square().sum() / len(GOALS)
    found = (noisy(1) - theta + jacobian.mean(0)).square().sum(-1)
    error = found.std() / 400**0.5
    assert abs(found.mean() - spread) < 4 * error  # four standard errors
    with pytest.raises(LossAtlasError, match="measure at the parameters"):
        train(problem, theta, mean, recipe, 1.0, noise=torch.Generator())


def test_one_loss_or_another_place_is_refused():
    problem, theta = autoencoder()
    object.__setattr__(problem, "goal_functions", lambda: problem.__class__.goal_functions(problem)[:1])
    with pytest.raises(LossAtlasError, match="at least two losses"):
        measure(problem, theta)
    with pytest.raises(LossAtlasError, match="measured at one of"):
        measure(problem, theta, "inputs")
    with pytest.raises(LossAtlasError, match="'mmd' is unknown"):
        AutoencoderProblem(problem.module, problem.x, ("mse", "mmd"))
    with pytest.raises(LossAtlasError, match="'hinge' is unknown"):
        ClassifierProblem(classifier()[0].network, ("hinge",))


# --- the problems -----------------------------------------------------------------------------------------------------


BUILDS = [
    lambda: dense((3, 8, 8), (5,), 2),
    lambda: convolutional((3, 8, 8), 2, 4),
    lambda: patchwise((3, 8, 8), 4, 5, 12),
]


@pytest.mark.parametrize("build", BUILDS)
def test_an_ensemble_of_autoencoders_is_its_members(build):
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    problem = AutoencoderProblem(build(), x, ("mse", "mean"))
    theta = initial(build, [1, 2])
    x_hat, z = problem.outputs(theta)
    for i, member in enumerate(theta):
        network = problem.layout.write(member, problem.module)
        assert (network[0](x) - z[i]).abs().max() < 1e-5
        assert (network(x) - x_hat[i]).abs().max() < 1e-5
    assert x_hat.shape == (2, *x.shape)
    assert problem(theta).shape == (2,)
    own = problem.on(torch.tensor([[0, 1], [2, 0]]))
    assert torch.allclose(own.outputs(theta)[0][1], x_hat[1, [2, 0]], atol=1e-6)


def test_the_published_autoencoder_has_its_parameters():
    """UvA tutorial 9 at c = 32: 1.15 M parameters at a latent of 307, log-variances (not here) included."""
    count = sum(p.numel() for p in convolutional((3, 32, 32), 32, 307).parameters())
    assert count == pytest.approx(0.82e6, rel=0.02)  # without the 0.32 M of the log-variance
    assert count + 1024 * 307 + 307 == pytest.approx(1.15e6, rel=0.02)


def test_patches_tile_the_image_and_the_way_back_is_the_inverse():
    x = torch.arange(2 * 3 * 8 * 12.0).view(2, 3, 8, 12)
    there, back = Patches((3, 8, 12), 4), Patches((3, 8, 12), 4, backwards=True)
    rows = there(x)
    assert rows.shape == (2, 6, 48)
    assert torch.equal(rows[1, 4].view(3, 4, 4), 2 * x[1, :, 4:, 4:8] - 1)  # second row of patches, second column
    assert torch.equal(back((rows + 1) / 2), x)


def test_patches_share_one_network_that_sees_nothing_of_the_others():
    build = patchwise((3, 8, 12), 4, 5, 12)
    x = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    swapped = torch.cat([x[..., 4:8], x[..., :4], x[..., 8:]], -1)
    codes, other = (build[0](images).view(2, 2, 3, 2) for images in (x, swapped))
    assert torch.allclose(codes[:, :, [1, 0, 2]], other, atol=1e-6)
    z = build[0](x)
    changed = z.clone()
    changed[:, :2] += 1  # the code of the first patch
    moved = (build[1](changed) - build[1](z)).abs().amax((0, 1)) > 0
    assert moved[:4, :4].all()
    assert not moved[4:].any()
    assert not moved[:, 4:].any()
    convolution = nn.functional.conv2d(2 * x - 1, build[0][1].weight.view(2, 3, 4, 4), build[0][1].bias, stride=4)
    assert torch.allclose(convolution.flatten(2).mT.flatten(1), z, atol=1e-5)
    with pytest.raises(LossAtlasError, match="do not tile"):
        patchwise((3, 8, 12), 5, 5, 12)
    with pytest.raises(LossAtlasError, match="do not tile"):
        patchwise((3, 8, 12), 4, 5, 13)


def test_pca_is_the_best_linear_code():
    x = torch.randn(200, 1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pca = Pca.fit(x, 5)
    values = torch.linalg.eigvalsh(torch.cov(x.flatten(1).mT, correction=0))
    assert pca.squared_error(x) == pytest.approx(values[:-5].sum().item() / 12)
    assert Pca.fit(x, 12).squared_error(x) == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("name", LOSSES)
def test_label_losses_have_their_minimum_at_the_label(name):
    y = torch.tensor([[0, 2]])
    certain = 30 * nn.functional.one_hot(y, 3).double()
    wrong = 30 * nn.functional.one_hot((y + 1) % 3, 3).double()
    assert (LOSSES[name](certain, y) < LOSSES[name](wrong, y)).all()
    exact = {"cross_entropy": 0.0, "brier": 0.0, "margin": 0.0, "squared": 29.0**2, "smoothed": 0.1 * 20}
    assert LOSSES[name](certain, y)[0].tolist() == pytest.approx([exact[name]] * 2, abs=1e-6)
