# Unrolled problems and the MNIST-1D table; adds to EVOLUTION_TABLES and FIGURES.
