import math

import numpy as np
import pytest
import torch
from scipy import stats

from lossatlas import composite, theory
from lossatlas.composite import (
    AveragedPowerWeighting,
    LargestGradient,
    PowerWeighting,
    RandomSwitching,
    aligned_mtl,
    cagrad,
    combine,
    gramian,
    matched_noise,
    mgda,
    noise_variance,
    pcgrad,
    upgrad,
)

J = torch.tensor([[-4.0, 1, 1], [6, 1, 1]])  # the Jacobian of torchjd's own value tests


def generator(number=0):
    return torch.Generator().manual_seed(number)


def jacobians(n, d, count=20, number=0):
    return torch.randn(count, n, d, generator=generator(number), dtype=torch.float64)


def direction(weighting, gradients):
    return combine(weighting(gramian(gradients)), gradients)


BASELINES = {
    "upgrad": upgrad,
    "mgda": mgda,
    "cagrad": cagrad,
    "aligned": aligned_mtl,
    "pcgrad": lambda g: pcgrad(g, generator(1)),
}


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (PowerWeighting(0.0), (1.0, 1, 1)),
        (PowerWeighting(1.0), (1.9233, 1, 1)),
        (PowerWeighting(-1.0), (0.0767, 1, 1)),  # IMTL-G for two losses
        (mgda, (0.0, 1, 1)),
        (upgrad, (0.2929, 1.9004, 1.9004)),
        (cagrad, (0.1835, 1.2041, 1.2041)),
        (aligned_mtl, (0.2133, 0.9673, 0.9673)),
        (lambda g: pcgrad(g, generator()), (0.5848, 3.8012, 3.8012)),
    ],
    ids=["sum", "q=1", "q=-1", "mgda", "upgrad", "cagrad", "aligned", "pcgrad"],
)
def test_published_values_on_torchjds_jacobian(weighting, expected):
    """The digits printed in torchjd's test_values.py, hence 1e-4."""
    found = direction(weighting, J)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("n", "d"), [(2, 3), (4, 2), (5, 8)])
def test_batched_baselines_are_torchjds(n, d):
    """Directions of a batch against torchjd, one Gramian at a time; 1e-3 for CAGrad, the tolerance of its solver."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    batch = jacobians(n, d)
    peers = {
        upgrad: (aggregation.UPGradWeighting(), 1e-9),
        aligned_mtl: (aggregation.AlignedMTLWeighting(), 1e-9),
        cagrad: (aggregation.CAGradWeighting(c=0.5), 1e-3),
    }
    for ours, (theirs, tolerance) in peers.items():
        expected = torch.stack([theirs(g) for g in gramian(batch)])
        torch.testing.assert_close(
            direction(ours, batch), combine(expected, batch), rtol=0, atol=tolerance, msg=str(theirs)
        )


def test_pcgrad_is_torchjds_in_law():
    """Random orders: the means over many draws agree within four standard errors."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    one = gramian(jacobians(4, 3, 1, number=5))[0]
    ours = pcgrad(one.expand(2000, -1, -1), generator())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = torch.stack([aggregation.PCGradWeighting()(one) for _ in range(400)])
    error = (ours.var(0) / 2000 + theirs.var(0) / 400).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 4 * error + 1e-12).all()


def test_an_aggregator_of_torchjd_uses_our_weights():
    bridge = pytest.importorskip("lossatlas.composite.torchjd_bridge", reason="torchjd is in the extra `composite`")
    found = bridge.aggregator(PowerWeighting(1.0))(J)
    torch.testing.assert_close(found, torch.tensor([1.9233, 1.0, 1.0]), rtol=0, atol=1e-4)
    torch.testing.assert_close(PowerWeighting(1.0)(gramian(J)), torch.tensor([0.4077, 0.5923]), rtol=0, atol=1e-4)


def test_the_power_family_by_its_definition():
    batch = jacobians(5, 3)
    lengths = batch.norm(dim=-1)
    for q in (-2.0, -1.0, 0.5, 1.0, 4.0):
        expected = lengths**q / (lengths**q).sum(-1, keepdim=True)
        torch.testing.assert_close(PowerWeighting(q)(gramian(batch)), expected, rtol=1e-9, atol=0)
    largest = LargestGradient(gramian(batch))
    assert torch.equal(largest.argmax(-1), lengths.argmax(-1))
    assert (largest.sum(-1) == 1).all()


@pytest.mark.parametrize("q", [-4.0, -1.0, 0.0, 1.0, 4.0, math.inf])
def test_members_without_gradient(q):
    """Finite weights for every power, and a zero direction, not NaN, where all gradients vanish."""
    some = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    weights = PowerWeighting(q)(gramian(some))
    assert weights.isfinite().all()
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    if q > 0:
        assert weights[0] == 0 or q < 1e-9 or float(weights[0]) < 1e-11  # attention leaves what bottoms out
    assert direction(PowerWeighting(q), torch.zeros(3, 2)).abs().max() == 0
    assert direction(PowerWeighting(q), torch.full((2, 2), 1e-30)).isfinite().all()


def test_averaged_norms():
    """Constant norms give the pointwise weights at once (bias correction); a reset forgets everything."""
    batch = jacobians(3, 4, 2)
    weighting = AveragedPowerWeighting(1.0, decay=0.9)
    first = weighting(gramian(batch))
    torch.testing.assert_close(first, PowerWeighting(1.0)(gramian(batch)), rtol=1e-12, atol=0)
    torch.testing.assert_close(weighting(gramian(-batch)), first, rtol=1e-12, atol=0)
    later = weighting(gramian(batch * torch.tensor([10.0, 1.0, 1.0])[:, None]))
    mean = (0.9 * (1 - 0.9**2) * batch.norm(dim=-1) + 0.1 * batch.norm(dim=-1) * torch.tensor([10.0, 1, 1])) / (
        1 - 0.9**3
    )
    torch.testing.assert_close(later, mean / mean.sum(-1, keepdim=True), rtol=1e-9, atol=0)
    weighting.reset()
    torch.testing.assert_close(weighting(gramian(batch)), first, rtol=1e-12, atol=0)


def test_random_switching_is_the_mean_with_the_noise_of_its_control():
    gradients = jacobians(4, 3, 1)[0].expand(40_000, -1, -1)
    g = gramian(gradients)
    switched = direction(RandomSwitching(generator()), gradients)
    control = matched_noise(gradients.mean(1), noise_variance(g, 3), generator())
    for sample in (switched, control):
        error = sample.std(0) / 200
        assert ((sample.mean(0) - gradients[0].mean(0)).abs() < 4 * error).all()
    traces = [sample.var(0).sum() for sample in (switched, control)]
    # the variance of a sample variance of 40 000 draws: relative standard error below 1 % each
    assert float(traces[0] / traces[1]) == pytest.approx(1, abs=0.04)
    shared = RandomSwitching(generator(), shared=True)(g)
    assert (shared == shared[0]).all()
    assert shared[0].sum() == 1


def test_same_seed_same_choice_and_global_state_untouched():
    before = torch.get_rng_state()
    g = gramian(jacobians(4, 2))
    assert torch.equal(pcgrad(g, generator(3)), pcgrad(g, generator(3)))
    assert torch.equal(RandomSwitching(generator(3))(g), RandomSwitching(generator(3))(g))
    assert torch.equal(torch.get_rng_state(), before)


# --- theorems about the baselines -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["upgrad", "mgda"])
def test_non_conflicting(name):
    """No gradient opposes the direction; up to UPGrad's regularisation, 1e-4 of the squared scale."""
    batch = jacobians(4, 6, 50)
    v = direction(BASELINES[name], batch)
    slack = 1e-3 if name == "upgrad" else 1e-9
    assert (batch @ v[..., None]).min() >= -slack * batch.square().sum((-2, -1)).max()


@pytest.mark.parametrize("name", ["upgrad", "mgda", "cagrad", "aligned"])
def test_permutation_invariant_and_batch_independent(name):
    batch = jacobians(4, 3, 10)
    order = torch.tensor([2, 0, 3, 1])
    v = direction(BASELINES[name], batch)
    # weights need not be unique, directions are: to the accuracy of the bracket (CAGrad) or of the ridge
    torch.testing.assert_close(direction(BASELINES[name], batch[:, order]), v, rtol=0, atol=1e-5)
    torch.testing.assert_close(direction(BASELINES[name], batch[:3]), v[:3], rtol=0, atol=1e-9)
    torch.testing.assert_close(
        BASELINES[name](gramian(batch).view(2, 5, 4, 4)).flatten(0, 1),
        BASELINES[name](gramian(batch)),
        rtol=0,
        atol=1e-9,
    )


def test_pcgrad_of_two_is_twice_upgrad():
    """And without a conflict PCGrad is the plain sum. UPGrad's regularisation moves it by 1e-3 of the size."""
    batch = jacobians(2, 5, 50)
    slack = 1e-3 * float(batch.norm(dim=-1).max())
    torch.testing.assert_close(direction(BASELINES["pcgrad"], batch), 2 * direction(upgrad, batch), rtol=0, atol=slack)
    agreeing = batch.abs()
    torch.testing.assert_close(direction(BASELINES["pcgrad"], agreeing), agreeing.sum(1), rtol=0, atol=1e-12)


def test_a_gradient_is_not_projected_on_itself():
    one = torch.tensor([[2.0, 1.0]])
    torch.testing.assert_close(direction(BASELINES["pcgrad"], one), one[0])


def test_mgda_is_the_point_of_least_norm():
    """v is shorter than every convex combination tried, and v·g_i >= |v|² for all i, which characterises it."""
    batch = jacobians(5, 3, 40)
    v = direction(mgda, batch)
    assert (mgda(gramian(batch)) >= 0).all()
    assert (batch @ v[..., None])[..., 0].sub(v.square().sum(-1, keepdim=True)).min() > -1e-7
    random = torch.distributions.Dirichlet(torch.ones(5, dtype=torch.float64)).sample((40, 30))
    assert ((random @ batch).norm(dim=-1) >= v.norm(dim=-1, keepdim=True) - 1e-9).all()


def test_pareto_stationary_share_is_wendels():
    """MGDA stops where 0 is in the hull: Wendel's share, and in the plane exactly where no angular gap reaches pi."""
    batch = jacobians(4, 2, 4000)
    stopped = direction(mgda, batch).norm(dim=-1) < 1e-6
    angles = torch.atan2(batch[..., 1], batch[..., 0]).sort(-1).values
    gaps = torch.cat([angles.diff(dim=-1), angles[:, :1] + 2 * math.pi - angles[:, -1:]], -1).amax(-1)
    clear = (gaps - math.pi).abs() > 1e-3
    assert torch.equal(stopped[clear], (gaps < math.pi)[clear])
    p = theory.wendel_probability(4, 2)
    assert abs(float(stopped.double().mean()) - p) < 4 * math.sqrt(p * (1 - p) / 4000)


def test_all_differ_on_a_conflicting_jacobian():
    batch = jacobians(5, 7, 1, number=2)
    g = gramian(batch)
    assert (g < 0).any()
    found = {name: direction(rule, batch)[0] for name, rule in BASELINES.items()}
    found |= {f"q={q}": direction(PowerWeighting(q), batch)[0] for q in (0.0, 1.0, -1.0, math.inf)}
    units = {name: v / v.norm() for name, v in found.items()}
    for a in units:
        for b in units:
            assert a == b or (units[a] - units[b]).norm() > 1e-3, (a, b)


@pytest.mark.parametrize("name", [*BASELINES, "q=1", "q=-1", "max"])
def test_harmony_theorem(name):
    """Random positive definite quadratics with one minimiser: every non-negative weighting comes closer, step by step.

    For small steps |x| never grows: v·x >= 0 whenever every g_i·x >= 0 and the weights are not negative.
    """
    rule = BASELINES.get(name) or PowerWeighting({"q=1": 1.0, "q=-1": -1.0, "max": math.inf}[name])
    root = torch.randn(4, 3, 3, generator=generator(), dtype=torch.float64)
    hessians = root @ root.mT + 0.5 * torch.eye(3, dtype=torch.float64)
    x = torch.randn(10, 3, generator=generator(1), dtype=torch.float64)
    start = x.norm(dim=-1)
    for _ in range(100):
        gradients = torch.einsum("nij,bj->bni", hessians, x)
        weights = rule(gramian(gradients))
        assert weights.min() > -1e-9 or name == "aligned"
        v = combine(weights, gradients)
        if weights.min() >= 0:
            assert ((v * x).sum(-1) >= -1e-12).all()
        x = x - 0.04 * v
    assert (x.norm(dim=-1) < 0.7 * start).all()


def test_rare_solutions_of_the_quadratic_program():
    """Against scipy's non-negative least squares on ill-conditioned problems."""
    nnls = pytest.importorskip("scipy.optimize").nnls
    a = torch.randn(30, 6, 6, generator=generator(), dtype=torch.float64) * torch.logspace(0, -3, 6).double()
    b = torch.randn(30, 6, generator=generator(1), dtype=torch.float64)
    found = composite.nonnegative_quadratic(a.mT @ a, (a.mT @ b[..., None])[..., 0])
    for i in range(30):
        expected, _ = nnls(a[i].numpy(), b[i].numpy())
        residual = [float((a[i] @ torch.as_tensor(x) - b[i]).norm()) for x in (found[i], expected)]
        assert residual[0] <= residual[1] * (1 + 1e-8)
        assert (found[i] >= 0).all()


def test_weights_are_those_of_the_norms_alone():
    """q-weights depend on norms only, not on angles: rotating each gradient changes no weight."""
    batch = jacobians(4, 3, 5)
    rotation = torch.as_tensor(np.stack([stats.special_ortho_group(3, seed=i).rvs() for i in range(4)]))
    turned = torch.einsum("nij,bnj->bni", rotation, batch)
    torch.testing.assert_close(PowerWeighting(1.0)(gramian(turned)), PowerWeighting(1.0)(gramian(batch)))


def test_a_sum_is_n_times_a_mean():
    """Of aggregators and of losses: what `reduction="sum"` means."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    matrix = jacobians(5, 3, count=1)[0]
    torch.testing.assert_close(aggregation.Sum()(matrix), 5 * aggregation.Mean()(matrix))
    torch.testing.assert_close(direction(PowerWeighting(0.0), matrix), aggregation.Mean()(matrix))


def test_upgrad_and_pcgrad_are_linear_under_scaling():
    """A(diag(a + b) J) = A(diag(a) J) + A(diag(b) J) for a, b > 0 (Quinton & Rey 2024), which MGDA's is not.

    5e-3 of the length for UPGrad: its ridge of 1e-4 sits on a Gramian that is normalised anew for each scaling.
    """
    matrix = jacobians(3, 5, count=30)
    a, b = (torch.rand(30, 3, 1, generator=generator(s), dtype=torch.float64) + 0.5 for s in (1, 2))
    for weighting, tolerance in ((upgrad, 5e-3), (lambda g: pcgrad(g, generator(4)), 1e-9)):
        whole = direction(weighting, (a + b) * matrix)
        parts = direction(weighting, a * matrix) + direction(weighting, b * matrix)
        assert ((whole - parts).norm(dim=-1) <= tolerance * whole.norm(dim=-1)).all()
    gap = direction(mgda, (a + b) * matrix) - direction(mgda, a * matrix) - direction(mgda, b * matrix)
    assert gap.norm(dim=-1).max() > 0.05


def test_upgrad_stops_at_strongly_stationary_points_only():
    """Two opposed gradients leave nothing to improve; a third one that conflicts with neither goes on, but for MGDA."""
    opposed = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    free = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert direction(upgrad, opposed).norm() < 1e-3  # the ridge
    torch.testing.assert_close(
        direction(upgrad, free), torch.tensor([0.0, 1 / 3], dtype=torch.float64), rtol=0, atol=1e-3
    )
    assert direction(mgda, free).norm() < 1e-6


def test_gradvacs_first_call_is_pcgrad_for_two():
    aggregation = pytest.importorskip("torchjd.aggregation")
    for matrix in jacobians(2, 4, count=10):
        ours = direction(lambda g: pcgrad(g, generator()), matrix)
        torch.testing.assert_close(aggregation.GradVac()(matrix), ours, rtol=1e-6, atol=1e-9)
