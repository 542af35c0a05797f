"""`lossatlas.connect`: a low path between two trained networks of any architecture."""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lossatlas.elastic_band.auto_neb import Connection, connect
from lossatlas.elastic_band.schedule import CHEAP, Schedule
from lossatlas.ensemble import Layout
from lossatlas.errors import LossAtlasError
from lossatlas.problems.network import NetworkProblem

Loss = str | Callable[[Tensor, Tensor], Tensor]


def connect_networks(
    net_a: nn.Module,
    net_b: nn.Module,
    loss: Loss,
    data: tuple[Tensor, Tensor],
    schedule: Schedule | None = None,
    **options,
) -> Connection:
    """A path of low loss between two trained networks of one architecture, found by AutoNEB.

    loss: `cross_entropy`, `squared_error`, or a function (outputs (n, C), targets (n, ...)) -> the mean over the n
    examples. data: inputs (n, ...) and targets (n, ...). schedule: `CHEAP` where None is given, with all rows in a
    minibatch where there are few. options as of `connect`. The pivots (N, P) of the result hold the trainable
    parameters in the order of `net_a.parameters()`. Raises `LossAtlasError` for networks that differ in more than
    the values of their parameters, and as `connect` does.
    """
    layout = Layout.of(net_a)
    if layout != Layout.of(net_b) or str(net_a) != str(net_b):
        raise LossAtlasError("the two networks have different architectures, so no straight line joins them")
    x, y = data
    problem = NetworkProblem(net_a, x, y, _by_example(loss))
    if schedule is None:
        schedule = CHEAP if len(y) >= CHEAP.batch_size else replace(CHEAP, batch_size=None)
    return connect(problem, layout.flatten(net_a), layout.flatten(net_b), schedule, **options)


def _by_example(loss: Loss) -> Loss:
    """The loss of each example, (k, n, C), (k, n, ...) -> (k, n), of a function that returns the mean over n."""
    if isinstance(loss, str):
        return loss
    if loss is F.cross_entropy:
        return "cross_entropy"

    def one(output: Tensor, target: Tensor) -> Tensor:
        return loss(output[None], target[None])

    return torch.func.vmap(torch.func.vmap(one))
