"""The limits at which the sources of the interpolation study draw their lines."""

import math

MONOTONE = 1e-3  # a run counts as non-monotone above this minimum delta (threshold of the MNIST tables of Lucas et al.)
RIGHT_ANGLE = math.pi / 2  # a logit path that turns less is certified to come ever nearer to its end
