"""A small bidirectional GRU whose ensembles step through time together.

Autograd would record ten operations for each of the many short time steps, which for a few hidden units costs much more
than the arithmetic; here the recurrence and its gradient are written out. Its second derivative is not implemented.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lossatlas import ensemble


class BidirectionalGRU(nn.GRU):
    """Sequences of numbers (n, L) -> hidden states of both directions (n, L, 2 hidden)."""

    def __init__(self, hidden: int):
        super().__init__(1, hidden, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., None])[0]


@ensemble.rule(BidirectionalGRU)
def _(layer, params, x, given, record):
    def both(name: str) -> Tensor:
        return torch.cat([params[name], params[f"{name}_reverse"]])

    k = len(params["weight_ih_l0"])
    x = x.mT.expand(k, -1, -1)  # (k, L, n)
    states = Recurrence.apply(
        torch.cat([x, x.flip(1)]),
        both("weight_ih_l0")[..., 0],
        both("bias_ih_l0"),
        both("weight_hh_l0"),
        both("bias_hh_l0"),
    )
    forward, backward = states.permute(1, 3, 0, 2).unflatten(0, (2, k))  # (k, n, L, hidden) each
    return torch.cat([forward, backward.flip(2)], -1)


class Recurrence(torch.autograd.Function):
    """Hidden states (L, m, h, n) of m gated recurrent units (Cho et al. 2014, in PyTorch's form) from a zero state.

    Inputs x (m, L, n); weights w_in (m, 3h), w (m, 3h, h) and biases b_in, b (m, 3h), in the order reset, update, new:
    r, z = sigmoid(w_in x + b_in + w s + b),  new = tanh(w_in x + b_in + r (w s + b)),  s <- new + z (s - new).
    """

    @staticmethod
    def forward(ctx, x: Tensor, w_in: Tensor, b_in: Tensor, w: Tensor, b: Tensor) -> Tensor:
        (m, length, n), h = x.shape, w.shape[-1]
        steps = x.movedim(1, 0)[:, :, None].contiguous()  # (L, m, 1, n)
        w_in, b_in, b = w_in[..., None], b_in[..., None], b[..., None]
        gates = torch.addcmul(b_in[:, : 2 * h] + b[:, : 2 * h], w_in[:, : 2 * h], steps)  # (L, m, 2h, n), r over z
        news = torch.addcmul(b_in[:, 2 * h :], w_in[:, 2 * h :], steps)
        states, owns = x.new_zeros(length + 1, m, h, n), x.new_empty(length, m, h, n)
        w_gates, w_new, b_new = w[:, : 2 * h].contiguous(), w[:, 2 * h :].contiguous(), b[:, 2 * h :].expand(m, h, n)
        for gate, new, own, state, after in zip(
            *(t.unbind() for t in (gates, news, owns, states[:-1], states[1:])), strict=True
        ):
            gate.baddbmm_(w_gates, state).sigmoid_()
            torch.baddbmm(b_new, w_new, state, out=own)
            new.addcmul_(gate[:, :h], own).tanh_()
            torch.lerp(new, state, gate[:, h:], out=after)
        ctx.save_for_backward(steps, w_in, w, gates, owns, news, states)
        return states[1:].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        steps, w_in, w, gates, owns, news, states = ctx.saved_tensors
        h = w.shape[-1]
        reset, update = gates[:, :, :h], gates[:, :, h:]
        # the derivatives of a step's result by the inputs of its gates, all steps at once
        kept = 1 - update
        by_new = (1 - news * news).mul_(kept)
        by_reset = ((1 - reset) * reset).mul_(owns).mul_(by_new)
        by_update = (states[:-1] - news).mul_(kept).mul_(update)
        factors = torch.stack([by_reset, by_update, by_new * reset, by_new], 2)  # (L, m, 4, h, n)
        slopes = torch.empty_like(factors)  # of the loss: the first three by w s + b, the last by the input of `new`
        carry, transposed = torch.zeros_like(states[0]), w.mT.contiguous()
        for t in range(len(gates) - 1, -1, -1):
            carry = carry + grad[t]
            torch.mul(carry[:, None], factors[t], out=slopes[t])
            carry = torch.baddbmm(carry * update[t], transposed, slopes[t, :, :3].flatten(1, 2))
        by_state = slopes[:, :, :3].flatten(2, 3)
        by_input = torch.cat([by_state[:, :, : 2 * h], slopes[:, :, 3]], 2)
        before = states[:-1].permute(1, 0, 3, 2).flatten(1, 2)  # (m, L n, h)
        grad_w = by_state.permute(1, 2, 0, 3).flatten(2) @ before
        grad_x = (by_input * w_in).sum(2).movedim(0, 1) if ctx.needs_input_grad[0] else None
        return grad_x, (by_input * steps).sum((0, 3)), by_input.sum((0, 3)), grad_w, by_state.sum((0, 3))
