"""The weightings of `lossatlas.composite` as torchjd aggregators, for networks and for comparison (torchjd 0.18)."""

from torch import Tensor
from torchjd.aggregation import GramianWeightedAggregator
from torchjd.aggregation import Weighting as TorchjdWeighting

from lossatlas.composite import Weighting


class GramianWeighting(TorchjdWeighting):
    """A torchjd `Weighting` of Gramians (n, n) that asks one of ours."""

    def __init__(self, weighting: Weighting):
        super().__init__()
        self.weighting = weighting

    def forward(self, gramian: Tensor, /) -> Tensor:
        return self.weighting(gramian)


def aggregator(weighting: Weighting) -> GramianWeightedAggregator:
    """Jacobians (n, d) -> directions (d,), for `torchjd.autojac.jac_to_grad`; e.g. `aggregator(PowerWeighting(1))`."""
    return GramianWeightedAggregator(GramianWeighting(weighting))
