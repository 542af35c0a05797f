"""One of the trainer's optimisers for a loop of one's own: the step of unit rate, and the averages behind it."""

import torch
from torch import Tensor

from lossatlas.training import OPTIMIZERS

FIRST = ("momentum", "adam")  # optimisers that keep an average of the gradient
SECOND = ("adagrad", "rmsprop", "adam")  # and those that keep one of its square, last


class Stepper:
    """The state of an optimiser (a name of `lossatlas.training.OPTIMIZERS`) for parameters like `theta`."""

    def __init__(self, theta: Tensor, optimizer: str, momentum: float = 0.9):
        kept, self._update = OPTIMIZERS[optimizer]
        self._momentum = momentum
        self._first, self._second = optimizer in FIRST, optimizer in SECOND
        self._averages = [torch.zeros_like(theta) for _ in range(kept)]
        self._count = torch.zeros(())

    def step(self, gradient: Tensor) -> Tensor:
        """The displacement of a step at rate 1, shaped like the gradient; times a rate it is that rate's."""
        displacement = torch.zeros_like(gradient)
        self._update([displacement], [gradient.clone()], self._averages, [self._count], self._momentum)
        return displacement

    @property
    def moments(self) -> tuple[Tensor | None, Tensor | None]:
        """The averages of the gradient and of its square; None for one that the optimiser does not keep."""
        return self._averages[0] if self._first else None, self._averages[-1] if self._second else None

    def set_moments(self, first: Tensor | None, second: Tensor | None) -> None:
        """Replace those that the optimiser keeps."""
        if self._first:
            self._averages[0] = first.clone()
        if self._second:
            self._averages[-1] = second.clone()
