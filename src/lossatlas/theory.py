"""Closed forms that claims and tests lean on, each with its derivation or source."""


def plateau_switch(signal_lead: float, bias_lead: float, depth: int) -> float:
    """The alpha beyond which class i, ahead by its signal, overtakes class j, ahead by its last-layer bias.

    On the line from zero an r-homogeneous network has logits z_k = alpha^r s_k + alpha b_k (each layer is scaled by
    alpha, the last bias once), so z_i > z_j iff alpha^(r-1) (s_i - s_j) > b_j - b_i (after Wang et al. 2022).
    signal_lead = s_i - s_j > 0, bias_lead = b_j - b_i > 0, depth r >= 2.
    """
    return (bias_lead / signal_lead) ** (1 / (depth - 1))
