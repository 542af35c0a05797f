"""Balancers by their formulas' consequences: what they balance, what they must not do, and that runs share nothing."""

import pytest
import torch
from torchjd.scalarization import DWA, FAMO, UW, GeometricMean

from lossatlas import composite
from lossatlas.composite.balancers import (
    AugmentedLagrangian,
    ComputedGamma,
    Encodec,
    GradNorm,
    InverseInitial,
    OnGramian,
    ReLoBRaLo,
    Scalarised,
    SoftAdapt,
    Static,
)
from lossatlas.composite.training import Seen
from lossatlas.errors import LossAtlasError

NAN = float("nan")


def seen(losses, norms=None, epoch=0):
    losses = torch.as_tensor(losses, dtype=torch.float64)
    norms = torch.ones_like(losses) if norms is None else torch.as_tensor(norms, dtype=torch.float64)
    return Seen(losses, norms, torch.diag_embed(norms.square()), epoch)


EVERY = {
    "static": lambda: Static(torch.tensor([1.0, 2.0])),
    "inverse": InverseInitial,
    "encodec": Encodec,
    "gradnorm": GradNorm,
    "softadapt": SoftAdapt,
    "softadapt-normalised": lambda: SoftAdapt(normalised=True, loss_weighted=True),
    "relobralo": lambda: ReLoBRaLo(torch.Generator().manual_seed(0), saved=0.5),
    "gamma": lambda: ComputedGamma(torch.tensor([True, False])),
    "lagrangian": lambda: AugmentedLagrangian(torch.tensor([NAN, 0.5])),
    "averaged": lambda: OnGramian(composite.AveragedPowerWeighting(1.0)),
    "UW": lambda: Scalarised(UW),
    "FAMO": lambda: Scalarised(FAMO),
    "DWA": lambda: Scalarised(lambda n: DWA()),
    "GLS": lambda: Scalarised(lambda n: GeometricMean()),
}


def history(weighting, steps=8):
    generator = torch.Generator().manual_seed(3)
    found = []
    for step in range(steps):
        losses = torch.rand(3, 2, generator=generator) + 0.1
        norms = torch.rand(3, 2, generator=generator) + 0.1
        found.append(weighting(seen(losses, norms, epoch=step // 2)))
        if getattr(weighting, "reads_result", False):
            weighting.after(losses.double() * 0.9)
    return torch.stack(found)


@pytest.mark.parametrize("name", EVERY)
def test_two_runs_share_nothing_and_the_callers_random_state_stays(name):
    weighting = EVERY[name]()
    before = torch.random.get_rng_state()
    first = history(weighting)
    weighting.reset()
    assert torch.equal(first, history(weighting))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.shape == (8, 3, 2)
    assert first.isfinite().all()
    assert (first >= 0).all()


@pytest.mark.parametrize("name", EVERY)
def test_a_member_that_is_lost_does_not_spoil_the_others(name):
    good, bad = EVERY[name](), EVERY[name]()
    for step in range(4):
        losses = torch.tensor([[0.7, 0.3], [0.2 + 0.1 * step, 0.9]], dtype=torch.float64)
        broken = losses.clone()
        if step >= 2:
            broken[1] = NAN
        one, other = (w(seen(values, values, epoch=step)) for w, values in ((good, losses), (bad, broken)))
        assert torch.allclose(one[0], other[0])
        for weighting, values in ((good, losses), (bad, broken)):
            if getattr(weighting, "reads_result", False):
                weighting.after(values * 0.9)


def test_encodecs_own_self_test():
    """|x − 1| and 100 |x + 1| at x = 0: the gradient is 99 unbalanced and 0 balanced (encodec, balancer.py)."""
    x = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    losses = torch.cat([(x - 1).abs(), 100 * (x + 1).abs()], 1)
    slopes = torch.cat([torch.autograd.grad(losses[:, i].sum(), x, retain_graph=True)[0] for i in range(2)], 1)
    assert slopes.sum().item() == pytest.approx(99)
    weights = Encodec()(seen(losses.detach(), slopes.abs()))
    assert (weights * slopes).sum().item() == pytest.approx(0, abs=1e-6)


def test_encodec_corrects_the_bias_of_its_average():
    balancer = Encodec(shares=[1.0, 3.0])
    for _ in range(3):
        weights = balancer(seen([[1.0, 1.0]], [[2.0, 8.0]]))
    assert (weights * torch.tensor([[2.0, 8.0]])).tolist() == [pytest.approx([0.25, 0.75])]  # the shares, at once


def test_gradnorm_gives_the_loss_that_fell_less_the_larger_target():
    balancer = GradNorm(alpha=1.5)
    balancer(seen([[1.0, 1.0]]))
    targets = balancer.targets(seen([[0.9, 0.1]]), torch.ones(1, 2, dtype=torch.float64))[0]
    assert targets[0] > targets[1]
    assert torch.equal(balancer.initial, torch.ones(1, 2, dtype=torch.float64))  # the first losses, for good


def test_gradnorm_without_alpha_makes_the_weighted_norms_equal():
    balancer = GradNorm(alpha=0.0, rate=0.01)
    norms = torch.tensor([[1.0, 4.0, 2.0]], dtype=torch.float64)
    for _ in range(1500):
        weights = balancer(seen(torch.ones(1, 3), norms))
    sizes = (weights * norms)[0]
    assert (sizes / sizes.mean() - 1).abs().max() < 0.05  # Adam chatters about the kink of |.| at its rate
    assert weights.sum().item() == pytest.approx(3)


def test_softadapt_prefers_what_got_worse_even_when_slopes_cancel():
    for settings in ({}, {"normalised": True}):
        balancer = SoftAdapt(beta=1.0, **settings)
        balancer(seen([[1.0, 1.0]]))
        weights = balancer(seen([[1.1, 0.9 - 1e-9]]))[0]  # the signed sum of the slopes is −1e-9
        assert weights[0] > 1 > weights[1]


def test_relobralo_starts_and_balances_as_its_formula_says():
    balancer = ReLoBRaLo(torch.Generator().manual_seed(0), alpha=0.999, saved=1.0)
    assert balancer(seen([[2.0, 2.0]])).tolist() == [[1.0, 1.0]]  # α = 1: the first weights
    second = balancer(seen([[2.0, 1.0]]))  # α = 0: n softmax(L_t / L_{t−1})
    expected = 2 * torch.tensor([1.0, 0.5], dtype=torch.float64).softmax(-1)
    assert second[0].tolist() == pytest.approx(expected.tolist())
    third = balancer(seen([[2.0, 1.0]]))  # from then on nearly the old ones
    assert third[0].tolist() == pytest.approx((0.999 * second[0] + 0.001).tolist())


def test_computed_gamma_only_falls():
    balancer = ComputedGamma(torch.tensor([True, False]))
    first = balancer(seen([[4.0, 1.0]]))
    risen = balancer(seen([[9.0, 1.0]]))
    fallen = balancer(seen([[2.0, 1.0]]))
    assert first[0].tolist() == pytest.approx([0.25, 1.0])
    assert torch.equal(first, risen)
    assert fallen[0, 0].item() == pytest.approx(1 / (0.99 * 4 + 0.01 * 2))


def test_the_lagrangian_finds_the_constrained_minimum():
    """min (x − 3)² under x² ≤ 1 has x = 1 and, at it, a weighted sum of gradients that vanishes."""
    balancer = AugmentedLagrangian(torch.tensor([NAN, 1.0]), penalty=1.0, rate=0.05)
    x = torch.zeros(1, dtype=torch.float64)
    for _ in range(3000):
        w = balancer(seen(torch.stack([(x - 3).square(), x.square()], -1)))[0]
        x = x - 0.1 * (w[0] * 2 * (x - 3) + w[1] * 2 * x)
    assert x.item() == pytest.approx(1, abs=1e-3)
    with pytest.raises(LossAtlasError, match="needs objectives"):
        AugmentedLagrangian(torch.tensor([1.0, 2.0]))


def test_scalarised_weights_are_the_derivative():
    losses = torch.tensor([[0.5, 2.0, 4.0]], dtype=torch.float64)
    weights = Scalarised(lambda n: GeometricMean())(seen(losses))
    assert weights[0].tolist() == pytest.approx((losses.prod() ** (1 / 3) / (3 * losses[0])).tolist())
    uncertain = Scalarised(lambda n: UW(n).double())(seen(losses))
    assert uncertain[0].tolist() == pytest.approx([0.5] * 3)


def test_dwa_weighs_epochs_not_steps():
    balancer = Scalarised(lambda n: DWA())
    for epoch, losses in enumerate([[4.0, 4.0], [2.0, 4.0]]):
        for _ in range(3):
            assert balancer(seen([losses], epoch=epoch)).tolist() == [[1.0, 1.0]]
    expected = 2 * (torch.tensor([0.5, 1.0], dtype=torch.float64) / 2).softmax(-1)
    assert balancer(seen([[1.0, 1.0]], epoch=2))[0].tolist() == pytest.approx(expected.tolist())


def test_famo_raises_the_weight_of_the_loss_that_falls_least():
    balancer = Scalarised(lambda n: FAMO(n).double())
    for _ in range(50):
        weights = balancer(seen([[1.0, 1.0]]))
        balancer.after(torch.tensor([[0.5, 0.99]], dtype=torch.float64))
    assert weights[0, 1] > weights[0, 0]
