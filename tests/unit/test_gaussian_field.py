import math

import pytest
import torch

from lossatlas.errors import LossAtlasError
from lossatlas.problems import GaussianField

EXACT = 1e-12  # float64 paths that differ by the order of summation alone


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_fft_sum_of_waves_and_autograd_agree(dim):
    shift = torch.rand(2, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    field = GaussianField.torus("paths", layers=[0, 1], dim=dim, side=6.0, dtype=torch.float64).shifted(shift)
    dense, slope = field.dense(3)
    axis = torch.arange(18, dtype=torch.float64) / 3
    points = torch.stack(torch.meshgrid(*(axis,) * dim, indexing="ij")).flatten(1)
    scattered, its_slope = field.at(points)
    theta = points.mT.clone().requires_grad_()
    by_autograd = torch.stack([torch.autograd.grad(v.sum(), theta, retain_graph=True)[0].mT for v in field(theta)])
    for a, b in ((dense.flatten(1), scattered), (slope.flatten(2), its_slope), (its_slope, by_autograd)):
        torch.testing.assert_close(a, b, rtol=0, atol=EXACT)
    assert torch.equal(field.values(3), dense)


def test_layers_at_points_of_their_own_or_in_common_agree():
    """Groups of layers (2, 3) at points (2, 1, d, B) that the layers of a group share, and at a copy for each layer."""
    field = GaussianField.features("shared points", layers=[[0, 1, 2], [3, 4, 5]], dim=4, waves=50, dtype=torch.float64)
    points = torch.randn(2, 1, 4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for a, b in zip(field.at(points), field.at(points.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    "field",
    [
        GaussianField.torus("law", layers=list(range(3000)), side=8.0),
        GaussianField.features("law", layers=list(range(3000)), dim=2, waves=4000),
    ],
    ids=["torus", "features"],
)
def test_the_covariance_is_squared_exponential(field):
    """Value variance 1, slope variance 1 / l², correlation exp(-r²/2): four standard errors over the layers.

    Features: also four standard deviations of the mean over their drawn waves, 4 / sqrt(4000) = 0.063 at most.
    """
    value, slope = field.at(torch.tensor([[0.7, 2.0], [0.2, 0.2]]))
    slack = 0.0 if field.side else 4 / math.sqrt(4000)
    for product, expected in (
        (value[:, 0] ** 2, 1.0),
        (slope[:, 0, 0] ** 2, 1.0),
        (slope[:, 1, 1] ** 2, 1.0),
        (slope[:, 0, 0] * slope[:, 1, 0], 0.0),
        (value[:, 0] * value[:, 1], math.exp(-0.5 * 1.3**2)),
        (value[:, 0] * slope[:, 0, 0], 0.0),
    ):
        product = product.double()
        assert abs(float(product.mean()) - expected) < 4 * float(product.std()) / math.sqrt(3000) + slack


def test_length_scales_space():
    a = GaussianField.torus("length", side=8.0, length=1.0, dtype=torch.float64)
    b = GaussianField.torus("length", side=16.0, length=2.0, dtype=torch.float64)
    x = torch.tensor([[1.0, 3.0], [0.5, 2.5]], dtype=torch.float64)
    torch.testing.assert_close(a.at(x)[0], b.at(2 * x)[0], rtol=0, atol=EXACT)


def test_conditioning_gives_the_value_and_a_vanishing_gradient():
    field = GaussianField.features("well", layers=list(range(5)), dim=6, dtype=torch.float64).with_minimum(4.0)
    value, slope = field.at(torch.zeros(6, 1, dtype=torch.float64))
    torch.testing.assert_close(value, torch.full_like(value, -4.0), rtol=0, atol=EXACT)
    assert slope.abs().max() < EXACT


def test_conditioning_is_that_of_the_normal_law():
    """Drawn fields whose value at 0 is near -1 look like conditioned ones elsewhere: mean -exp(-r²/2), 4 s.e."""
    field = GaussianField.features("law of the well", layers=list(range(4000)), dim=1, waves=50)
    well = field.with_minimum(1.0)
    mean = well.at(torch.tensor([[0.8]]))[0][:, 0].double()
    expected = -float((0.8 * well.waves[:, 0].double()).cos().mean())
    assert abs(float(mean.mean()) - expected) < 4 * float(mean.std()) / math.sqrt(4000)


def test_names_not_order_make_the_layers():
    a = GaussianField.torus("names", layers=[4], side=6.0)
    b = GaussianField.torus("names", layers=[0, 4], side=6.0)
    assert torch.equal(a.cosine[0], b.cosine[1])


def test_bad_input_is_refused():
    with pytest.raises(LossAtlasError, match="side >= 6 lengths"):
        GaussianField.torus("bad", side=3.0)
    with pytest.raises(LossAtlasError, match="do not resolve the shortest wave"):
        GaussianField.torus("bad", side=8.0).dense(1)
    with pytest.raises(LossAtlasError, match="no period"):
        GaussianField.features("bad").dense(8)
    with pytest.raises(LossAtlasError, match="on a torus, find and shift"):
        GaussianField.torus("bad", side=8.0).with_minimum(1.0)
