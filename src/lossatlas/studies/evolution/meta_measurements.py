"""The claims about unrolled problems and the MNIST-1D table: {claim id: function of the tables}."""

MEASURES = {}
