"""What an ensemble of baselines is: one architecture, data set and optimiser, and the grid of its members."""

from dataclasses import dataclass
from itertools import product

# ResNets and what their blocks are normalised by; None: BatchNorm, or the scalar of NBN-I without it.
RESIDUAL = {"resnet": None, "resnet_identity": "batch-identity", "resnet_fixup": "fixup"}


@dataclass(frozen=True)
class Baseline:
    """One training job. Its members are the product of the four tuples at the end, in that order.

    architecture: `mlp`, `cnn` or one of `RESIDUAL`; hidden: widths of the hidden layers (MLP), channels (CNN), or the
    depth and, where they are not 16, 32 and 64, the channels of the three stages (ResNet); or a network of the
    MNIST-1D table, whose sizes are fixed (`linear`, `residual-mlp`, `conv`, `gru`). shuffled: the positions of the
    inputs are mixed by one permutation. loss `squared_error` with data as its own target makes an autoencoder
    (`autoencoder`).
    pushes: 0 for none, else c in the penalty s sum_p (|p| - c |p(0)|)^2 (`outR`, Lucas et al. 2021), s the strength.
    """

    data: str
    hidden: tuple[int, ...]
    folder: str = ""
    architecture: str = "mlp"
    activation: str = "relu"
    shuffled: bool = False
    batch_norm: bool = False
    autoencoder: bool = False
    optimizer: str = "momentum"
    epochs: int = 1
    batch_size: int = 128
    schedule: str = "constant"
    milestones: tuple[float, ...] = ()
    weight_decay: float = 0.0
    push_strength: float = 0.0
    learning_rates: tuple[float, ...] = (0.1,)
    initial_scales: tuple[float, ...] = (1.0,)
    pushes: tuple[float, ...] = (0.0,)
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def from_parameters(cls, parameters: dict) -> "Baseline":
        """The baseline whose fields are given as plain JSON (lists for tuples)."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in parameters.items()})

    def members(self) -> list[tuple[float, float, float, int]]:
        """(learning rate, initial scale, push, seed) of each member."""
        return list(product(self.learning_rates, self.initial_scales, self.pushes, self.seeds))
