"""Closed forms that claims and tests lean on, each with its derivation or source."""


def plateau_switch(signal_lead: float, bias_lead: float, depth: int) -> float:
    """The alpha beyond which class i, ahead by its signal, overtakes class j, ahead by its last-layer bias.

    On the line from zero an r-homogeneous network has logits z_k = alpha^r s_k + alpha b_k (each layer is scaled by
    alpha, the last bias once), so z_i > z_j iff alpha^(r-1) (s_i - s_j) > b_j - b_i (after Wang et al. 2022).
    signal_lead = s_i - s_j > 0, bias_lead = b_j - b_i > 0, depth r >= 2.
    """
    return (bias_lead / signal_lead) ** (1 / (depth - 1))


def sweep_speedup(first_share: float, n_points: int) -> float:
    """Bound on the speed gained by sharing the first layer: 1 / (1 - s + 2 s / A).

    s is that layer's share of a forward pass, A the number of points; two products replace A.
    """
    return 1 / (1 - first_share + 2 * first_share / n_points)
