"""The networks: how many parameters, where they start, and what they are at the start."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossatlas.ensemble import Layout, Norm
from lossatlas.errors import LossAtlasError
from lossatlas.problems.architectures import NORMS, ResidualBlock, Scale, Shift, Shortcut, cnn, mlp, resnet
from lossatlas.problems.network import initial


def weights_of_a_resnet(depth, classes):
    """Convolutions and linear layer by hand: (6n + 2) layers, 3x3, no convolution in a shortcut (option A)."""
    n = (depth - 2) // 6
    convolutions = 3 * 16 * 9 + 2 * n * 16 * 16 * 9
    for before, after in ((16, 32), (32, 64)):
        convolutions += before * after * 9 + (2 * n - 1) * after * after * 9
    return convolutions + 64 * classes + classes


def normalised_channels(depth):
    """One normalisation after each convolution, and one after each of the two shortcuts that change the shape."""
    n = (depth - 2) // 6
    return 16 + 2 * n * (16 + 32 + 64) + 32 + 64


# He et al. 2016, table 6, in millions
@pytest.mark.parametrize(("depth", "published"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_resnets_have_the_published_number_of_parameters(depth, published):
    dims = {norm: Layout.of(resnet(depth, 10, norm)).dim for norm in NORMS}
    weights = weights_of_a_resnet(depth, 10)
    assert dims["batch"] == dims["batch-identity"] == weights + 2 * normalised_channels(depth)
    assert dims["none"] == weights + 3 * (depth - 2) // 6  # one scale a block
    # one scale and a shift before each of two convolutions and two activations; one at both ends of the network
    assert dims["fixup"] == weights + 5 * 3 * (depth - 2) // 6 + 2
    # as counted by He et al., whose shortcuts have no normalisation of their own
    assert round((dims["batch"] - 2 * (32 + 64)) / 1e6, 2) == published


@pytest.mark.parametrize("depth", [20, 56])
def test_a_resnet_has_as_many_layers_as_it_says(depth):
    layers = [m for m in resnet(depth).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


@pytest.mark.parametrize("norm", NORMS)
def test_a_resnet_halves_twice_and_answers_every_class(norm):
    network, seen = resnet(8, 7, norm), []
    for module in network:
        if isinstance(module, ResidualBlock):
            module.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[1:])))
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert seen == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


@pytest.mark.parametrize("norm", ["batch-identity", "none"])
@pytest.mark.parametrize(("fan_in", "fan_out", "stride"), [(4, 4, 1), (4, 8, 2)])
def test_blocks_with_an_identity_start_are_their_shortcut_at_first(norm, fan_in, fan_out, stride):
    block = ResidualBlock(fan_in, fan_out, stride, norm)
    x = torch.randn(3, fan_in, 6, 6)
    assert torch.equal(block(x), F.relu(block.shortcut(x)))
    block.branch[0].weight.data.mul_(2)  # whatever the branch holds
    assert torch.equal(block(x), F.relu(block.shortcut(x)))
    plain = ResidualBlock(fan_in, fan_out, stride, "batch")
    assert not torch.allclose(plain(x), F.relu(plain.shortcut(x)))


def test_a_fixup_network_starts_at_zero_with_shortcuts_alone_and_branches_shrunk_by_their_number():
    """Zhang et al. 2019, section 3: L = 9 branches of m = 2 convolutions are scaled by 9^(-1/2)."""
    torch.manual_seed(0)
    network = resnet(20, 10, "fixup")
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(network(x), torch.zeros(4, 10))
    blocks = [layer for layer in network if isinstance(layer, ResidualBlock)]
    assert len(blocks) == 9
    for block in blocks:
        first, last = (layer.weight.detach() for layer in block.branch if isinstance(layer, nn.Conv2d))
        z = torch.randn(2, first.shape[1], 8, 8)
        assert torch.equal(block(z), F.relu(block.shortcut(z)))
        assert not last.any()
        n, std = first.numel(), (2 / (first.shape[0] * 9)) ** 0.5 / 3
        # standard error of a normal sample's deviation is std / sqrt(2 n)
        assert float(first.std()) == pytest.approx(std, abs=4 * std / (2 * n) ** 0.5)


def test_a_fixup_block_adds_a_number_before_each_convolution_and_activation_and_scales_the_branch():
    """The block written out by hand; a shift before a convolution is not part of its zero padding."""
    torch.manual_seed(1)
    block = ResidualBlock(3, 5, 2, "fixup").double()
    a, b, c, d = torch.linspace(-0.4, 0.5, 4, dtype=torch.float64)
    shifts = [layer for layer in block.branch if isinstance(layer, Shift)]
    for layer, value in zip(shifts, (a, b, c, d), strict=True):
        layer.bias.data.fill_(value)
    (scale,) = (layer for layer in block.branch if isinstance(layer, Scale))
    assert scale.weight.item() == 1
    scale.weight.data.fill_(1.7)
    first, last = (layer.weight for layer in block.branch if isinstance(layer, nn.Conv2d))
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    inner = F.conv2d(F.relu(F.conv2d(x + a, first, stride=2, padding=1) + b) + c, last, padding=1)
    torch.testing.assert_close(block(x), F.relu(block.shortcut(x) + 1.7 * inner + d))


def test_the_shortcut_subsamples_and_fills_missing_channels_with_zeros():
    x = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).view(2, 3, 4, 4)
    y = Shortcut(3, 5, 2)(x)
    assert y.shape == (2, 5, 2, 2)
    assert torch.equal(y[:, :3], F.avg_pool2d(x, 1, stride=2))
    assert (y[:, 3:] == 0).all()


def test_convolutions_of_a_resnet_start_kaiming_normal_by_fan_out():
    torch.manual_seed(0)
    convolutions = [m.weight for m in resnet(56).modules() if isinstance(m, nn.Conv2d)]
    for weight in convolutions:
        n, std = weight.numel(), (2 / (weight.shape[0] * 9)) ** 0.5
        # standard error of a normal sample's deviation is std / sqrt(2 n); 55 layers, so five of them
        assert float(weight.detach().std()) == pytest.approx(std, abs=5 * std / (2 * n) ** 0.5)
        assert float(weight.detach().mean()) == pytest.approx(0, abs=5 * std / n**0.5)


def test_linear_layers_start_as_torchs_own():
    torch.manual_seed(3)
    ours = mlp((6, 5, 3))
    torch.manual_seed(3)
    theirs = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    assert torch.equal(Layout.of(ours).flatten(ours), Layout.of(theirs).flatten(theirs))


@pytest.mark.parametrize(
    "builds",
    [
        [lambda: mlp((6, 5, 3)), lambda: mlp((6, 5, 3), batch_norm=True)],
        [lambda norm=norm: resnet(8, 10, norm) for norm in NORMS],
    ],
)
def test_every_switch_changes_where_a_network_starts(builds):
    starts = [initial(build, [0])[0] for build in builds]
    for i, one in enumerate(starts):
        for other in starts[:i]:
            assert one.shape != other.shape or not torch.equal(one, other)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_the_activation_switch_changes_the_function_and_not_the_start(activation):
    x = torch.randn(4, 6)
    torch.manual_seed(0)
    network = mlp((6, 5, 3), activation)
    function = {"relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}[activation]
    first, last = (m for m in network if isinstance(m, nn.Linear))
    torch.testing.assert_close(network(x), last(function(first(x))), rtol=1e-6, atol=1e-6)


def test_batch_norm_stands_before_every_activation_and_nowhere_else():
    kinds = [type(m) for m in mlp((6, 5, 4, 3), "tanh", batch_norm=True)]
    assert kinds == [nn.Flatten, nn.Linear, Norm, nn.Tanh, nn.Linear, Norm, nn.Tanh, nn.Linear]


@pytest.mark.parametrize("widths", [(6, 3), (6, 5, 3), (784, 100, 10), (784, 1024, 1024, 10)])
def test_perceptrons_have_their_weights_and_biases(widths):
    expected = sum((a + 1) * b for a, b in pairwise(widths))
    assert Layout.of(mlp(widths)).dim == expected
    assert Layout.of(mlp(widths, batch_norm=True)).dim == expected + 2 * sum(widths[1:-1])


@pytest.mark.parametrize(("shape", "taps"), [((1, 40), 3), ((3, 8, 8), 9)])
def test_convolutional_networks_have_their_weights_and_biases(shape, taps):
    network = cnn(shape, (4, 5), 10)
    assert Layout.of(network).dim == (shape[0] * taps + 1) * 4 + (4 * taps + 1) * 5 + 6 * 10
    assert network(torch.randn(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)])
def test_a_perceptron_takes_inputs_of_any_shape_row_by_row(shape):
    x = torch.randn(4, *shape)
    network = mlp((6, 5, 3))
    assert torch.equal(network(x), network(x.reshape(4, 6)))


@pytest.mark.parametrize(("depth", "norm"), [(21, "batch"), (2, "batch"), (20, "layer")])
def test_a_resnet_that_does_not_exist_is_refused_with_those_that_do(depth, norm):
    with pytest.raises(LossAtlasError, match=r"6n \+ 2.*batch-identity"):
        resnet(depth, 10, norm)


def test_an_unknown_activation_is_named_with_those_there_are():
    with pytest.raises(LossAtlasError, match=r"gelu.*relu, tanh, sigmoid"):
        mlp((6, 5, 3), "gelu")


def test_a_small_resnet_takes_grey_images_and_narrow_stages():
    network = resnet(8, 10, "batch", inputs=1, channels=(4, 8, 12))
    assert network(torch.randn(3, 1, 8, 8)).shape == (3, 10)
    weights = 9 * (4 + 2 * 4 * 4 + (4 + 8) * 8 + (8 + 12) * 12) + 12 * 10
    batch_norm, bias = 2 * (4 + 2 * 4 + 3 * 8 + 3 * 12), 10
    assert Layout.of(network).dim == weights + batch_norm + bias
