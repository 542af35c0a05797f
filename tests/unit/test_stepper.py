"""The steps are those of torch's own optimisers at rate 1, and the moments theirs."""

import pytest
import torch

from lossatlas.stepper import Stepper

OWN = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1.0),
    "momentum": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1.0),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1.0),
    "adam": lambda p: torch.optim.Adam(p, lr=1.0, betas=(0.9, 0.999)),
}
NAMES = {"momentum": ("momentum_buffer", None), "adagrad": (None, "sum"), "rmsprop": (None, "square_avg")}


@pytest.mark.parametrize("optimizer", OWN)
def test_steps_and_moments_are_torchs(optimizer):
    generator = torch.Generator().manual_seed(0)
    theta = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    own, ours = OWN[optimizer]([theta]), Stepper(theta.detach(), optimizer)
    for _ in range(4):
        before = theta.detach().clone()
        theta.grad = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        kept = theta.grad.clone()
        moved = ours.step(theta.grad)
        assert theta.grad.equal(kept)  # the caller's gradient is left alone
        own.step()
        torch.testing.assert_close(before + moved, theta.detach())
    names = NAMES.get(optimizer, ("exp_avg", "exp_avg_sq") if optimizer == "adam" else (None, None))
    for name, moment in zip(names, ours.moments, strict=True):
        assert (moment is None) == (name is None)
        if name is not None:
            torch.testing.assert_close(moment, own.state[theta][name])
