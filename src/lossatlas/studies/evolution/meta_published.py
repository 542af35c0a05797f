"""Numbers that others printed, as the study compares with them; the sources stand in `claims/`."""

# mnist1d, README: test accuracy in per cent of (network, shuffled)
README = {
    ("linear", False): 32.0,
    ("residual-mlp", False): 68.0,
    ("conv", False): 94.0,
    ("gru", False): 91.0,
    ("linear", True): 32.0,
    ("residual-mlp", True): 68.0,
    ("conv", True): 56.0,
    ("gru", True): 57.0,
}
# mnist1d, stored output of the classification notebook at step 6000, one run: the same, and training accuracy
NOTEBOOK = {
    ("linear", False): 31.5,
    ("residual-mlp", False): 65.1,
    ("conv", False): 92.3,
    ("gru", False): 89.1,
    ("linear", True): 31.5,
    ("residual-mlp", True): 66.0,
    ("conv", True): 58.7,
    ("gru", True): 53.3,
}
NOTEBOOK_STEPS = 6000
# mnist1d, notebook on metalearning a learning rate: after outer update (0, 1, ...) the rate, from 1.5 and from .15
LEARNING_RATES = {
    0: {3: 1.259, 6: 1.044, 9: 0.9111, 12: 0.8209, 24: 0.6735, 48: 0.6243},
    1: {3: 0.4909, 6: 0.5407, 9: 0.5689, 12: 0.5857, 24: 0.6124, 48: 0.6203},
}
LEARNING_RATE_LOSS = 1.716  # mean inner loss at the end of both
# mnist1d, notebook on metalearning an activation: mean loss over all inner steps, one run each
ACTIVATIONS = {"relu": 1.337, "swish": 1.368, "elu": 1.474, "tanh": 1.524, "softplus": 1.647, "sigmoid": 1.753}
# evosax, PES example: L after generations 0, 500, ..., 4500 and the update of the generation itself, one seed
TOY = {
    "PES": (2423.47, 2321.65, 1545.29, 1238.88, 730.35, 665.97, 618.68, 611.86, 604.82, 602.42),
    "ES-Single": (2423.47, 2095.82, 1656.34, 997.18, 743.01, 656.02, 628.86, 610.77, 600.68, 597.65),
}
TOY_GENERATIONS = tuple(range(0, 5000, 500))
