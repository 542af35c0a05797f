"""Ensembles: k networks of one architecture are one tensor (k, P), evaluated together.

`Layout` maps a module's trainable parameters to a vector and back; buffers are never coordinates. `forward` runs
all members at once: activations carry a leading member axis, which has length 1 as long as every member still sees
the same input, so the first layer of a shared minibatch is one matrix product for the whole ensemble.

Supported leaf layers are batched by their own rule (`rule` adds one); a module that has no rule is
called member by member, so any `nn.Module` works.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

CACHE_BYTES = 2 * 2**20  # activations of one chunk; beyond a core's L2 cache a larger batch is slower
DEVICE_BYTES = 2 * 2**30  # the same on an accelerator, where a chunk should be as large as memory allows


@dataclass(frozen=True)
class Layout:
    """Where each trainable parameter of a module lies in its vector."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, module: nn.Module) -> "Layout":
        named = [(name, tuple(p.shape)) for name, p in module.named_parameters() if p.requires_grad]
        return cls(tuple(name for name, _ in named), tuple(shape for _, shape in named))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(torch.Size(shape).numel() for shape in self.shapes)

    @property
    def dim(self) -> int:
        return sum(self.sizes)

    def flatten(self, module: nn.Module) -> Tensor:
        """The module's trainable parameters as one detached vector (P,)."""
        named = dict(module.named_parameters())
        return torch.cat([named[name].detach().reshape(-1) for name in self.names])

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """theta (..., P) -> {name: (..., *shape)}, views of theta."""
        parts = dict(zip(self.names, theta.split(self.sizes, dim=-1), strict=True))
        for name, shape in zip(self.names, self.shapes, strict=True):
            if len(shape) != 1:
                parts[name] = parts[name].unflatten(-1, shape) if shape else parts[name].squeeze(-1)
        return parts

    def write(self, theta: Tensor, module: nn.Module) -> nn.Module:
        """A copy of `module` that holds the parameters theta (P,); the caller's module is left alone."""
        result = copy.deepcopy(module)
        named = dict(result.named_parameters())
        with torch.no_grad():
            for name, value in self.split(theta).items():
                named[name].copy_(value)
        return result


def stack(modules: Sequence[nn.Module]) -> Tensor:
    """The parameters of modules of one architecture as an ensemble (k, P)."""
    layout = Layout.of(modules[0])
    return torch.stack([layout.flatten(module) for module in modules])


# --- normalisation: statistics are never coordinates, they are recomputed at each point -----------------------------


class Statistics(NamedTuple):
    """What a normalisation layer divides by: mean and biased variance, each (k, C), over `count` positions."""

    mean: Tensor
    var: Tensor
    count: int


class Norm(nn.Module):
    """BatchNorm without running statistics: it uses those it is given, else the ones of its own input."""

    def __init__(self, features: int, eps: float = 1e-5, affine: bool = True):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(features)) if affine else None
        self.given: Statistics | None = None
        self.recorded: Statistics | None = None

    def forward(self, x: Tensor) -> Tensor:
        """One member, x (n, C, ...); used inside modules that are called member by member."""
        weight = None if self.weight is None else self.weight[None]
        bias = None if self.bias is None else self.bias[None]
        y, self.recorded = normalise(x[None], weight, bias, self.given, self.eps)
        return y[0]


def normalise(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, given: Statistics | None, eps: float
) -> tuple[Tensor, Statistics]:
    """x (k, n, C, ...) normalised over all axes but member and channel, then scaled; weight, bias (k, C).

    With the statistics given, or else those of x; returns those that were used. Plain reductions, not torch's fused
    kernel: that one gives a member other bits when more members are evaluated beside it.
    """
    tail = (1,) * (x.dim() - 3)

    def spread(value: Tensor) -> Tensor:
        return value.view(value.shape[0], 1, value.shape[1], *tail)

    if given is None:
        axes = [axis for axis in range(x.dim()) if axis not in (0, 2)]
        mean = x.mean(axes)
        centred = x - spread(mean)
        given = Statistics(mean, centred.square().mean(axes), x[0].numel() // x.shape[2])
    else:
        centred = x - spread(given.mean)
    scale = torch.rsqrt(given.var + eps)
    if weight is not None:
        scale = scale * weight
    y = centred * spread(scale) if bias is None else torch.addcmul(spread(bias), centred, spread(scale))
    return y, given


def without_running_statistics(module: nn.Module) -> nn.Module:
    """A copy of `module` in which every BatchNorm layer is a `Norm` (same parameters, no buffers)."""
    result = copy.deepcopy(module)
    for parent in [result, *result.modules()]:
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                norm = Norm(child.num_features, child.eps, child.affine)
                if child.affine:
                    norm.to(child.weight.device, child.weight.dtype)
                norm.load_state_dict({k: v for k, v in child.state_dict().items() if k in ("weight", "bias")})
                setattr(parent, name, norm)
    return result


# --- the forward pass of an ensemble --------------------------------------------------------------------------------

Moments = dict[nn.Module, Statistics]  # by the layer that they belong to


def forward(
    module: nn.Module,
    params: dict[str, Tensor],
    x: Tensor,
    given: Moments | None = None,
    record: Moments | None = None,
) -> Tensor:
    """Outputs (k, n, ...) of k members for the inputs x (1 or k, n, ...).

    params: {name: (k, *shape)}, as `Layout.split` returns them. `given` holds normalisation moments to use instead
    of those of the input itself; those that were used are put into `record`, where one is given.
    """
    given = {} if given is None else given
    run = _member_by_member if shares_parameters(module) else run_layer
    return run(module, params, x, given, record)


Rule = Callable[[nn.Module, dict[str, Tensor], Tensor, Moments, Moments | None], Tensor]
PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d)  # layers whose output is new memory
RULES: dict[type[nn.Module], Rule] = {}  # by exact type, since a subclass may compute something else


def rule(*layers: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Register the batched forward (layer, params, x, given, record) -> output of some types of layer."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(layers, function))
        return function

    return register


def run_layer(layer: nn.Module, params: dict[str, Tensor], x: Tensor, given: Moments, record: Moments | None) -> Tensor:
    """`forward` of one layer: by its rule if it has one that fits, else member by member."""
    if has_rule(layer, params):
        return RULES[type(layer)](layer, params, x, given, record)
    return _member_by_member(layer, params, x, given, record)


def has_rule(layer: nn.Module, params: dict[str, Tensor]) -> bool:
    """Whether a layer whose trained parameters are `params` can be run by its type's rule."""
    # the layer's dictionaries, since this is asked in each step of a training and nn.Module's own ways are slow
    if type(layer) not in RULES or layer.__dict__.get("padding_mode", "zeros") != "zeros":
        return False
    return all(name in params for name, value in layer._parameters.items() if value is not None)


def shares_parameters(module: nn.Module) -> bool:
    """Whether a parameter, or a layer with parameters, occurs more than once in a module."""
    found = list(_parameter_ids(module))
    return len(set(found)) < len(found)


def _parameter_ids(module: nn.Module) -> Iterator[int]:
    yield from (id(value) for value in module._parameters.values() if value is not None)
    for child in module._modules.values():
        if child is not None:
            yield from _parameter_ids(child)


def _member_by_member(layer, params, x, given, record):
    norms = [m for m in layer.modules() if isinstance(m, Norm)]
    if not params and not norms:
        return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    k = max([x.shape[0], *(len(value) for value in params.values())])
    outputs, used = [], []
    for i in range(k):
        for norm in norms:
            norm.given = _member(given[norm], i) if norm in given else None
        member = {name: value[i] for name, value in params.items()}
        outputs.append(functional_call(layer, member, (x[i if x.shape[0] > 1 else 0],)))
        used.append([norm.recorded for norm in norms])
    for j, norm in enumerate(norms):
        if record is not None:
            mean, var = (torch.cat([getattr(u[j], name) for u in used]) for name in ("mean", "var"))
            record[norm] = Statistics(mean, var, used[0][j].count)
        norm.given = norm.recorded = None
    return torch.stack(outputs)


@rule(nn.Sequential)
def _(layer, params, x, given, record):
    before = None
    for name, child in layer._modules.items():  # named_children() would skip a layer that stands there twice
        if type(child) is nn.ReLU and type(before) in PRODUCTS and not torch.is_grad_enabled():
            x = x.relu_()  # nobody else holds what a product has just made: spares a sixth of the time
        else:
            x = run_layer(child, child_parameters(params, name), x, given, record)
        before = child
    return x


@rule(nn.Linear)
def _(layer, params, x, given, record):
    weight, bias = params["weight"], params.get("bias")
    k, out, _ = weight.shape
    rows = x.flatten(1, -2).mT  # features first: as fast for wide layers, several times faster for narrow ones
    if x.shape[0] == 1:
        weight = weight.flatten(0, 1)
        y = weight @ rows[0] if bias is None else torch.addmm(bias.reshape(-1, 1), weight, rows[0])
        y = y.unflatten(0, (k, out))
    else:
        y = weight @ rows if bias is None else torch.baddbmm(bias[..., None], weight, rows)
    return y.mT if x.dim() == 3 else y.mT.unflatten(1, x.shape[1:-1])


@rule(nn.Flatten)
def _(layer, params, x, given, record):
    return x.flatten(layer.start_dim + (layer.start_dim >= 0), layer.end_dim + (layer.end_dim >= 0))


@rule(nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Tanh, nn.Sigmoid)
def _(layer, params, x, given, record):
    return layer(x)


@rule(nn.Conv1d, nn.Conv2d)
def _(layer, params, x, given, record):
    convolve = F.conv1d if isinstance(layer, nn.Conv1d) else F.conv2d
    weight, bias = params["weight"], params.get("bias")
    k, out = weight.shape[:2]
    shared = x.shape[0] == 1 and (k == 1 or layer.groups == 1)
    y = convolve(
        x[0] if shared else x.expand(k, *x.shape[1:]).movedim(0, 1).flatten(1, 2),
        weight.flatten(0, 1),
        None if bias is None else bias.flatten(),
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups if shared else layer.groups * k,
    )
    return y.unflatten(1, (k, out)).movedim(1, 0)


@rule(Norm)
def _(layer, params, x, given, record):
    y, used = normalise(x, params.get("weight"), params.get("bias"), given.get(layer), layer.eps)
    if record is not None:
        record[layer] = used
    return y


def _member(statistics: Statistics, i: int) -> Statistics:
    return Statistics(statistics.mean[i : i + 1], statistics.var[i : i + 1], statistics.count)


def joined(parts: Sequence[Moments]) -> Moments:
    """The moments of all members, from those of some after others."""
    return {
        layer: Statistics(
            torch.cat([part[layer].mean for part in parts]), torch.cat([part[layer].var for part in parts]), first.count
        )
        for layer, first in parts[0].items()
    }


def child_parameters(params: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key[len(prefix) :]: value for key, value in params.items() if key.startswith(prefix)}


# --- loss, gradient and curvature of an ensemble on any problem ------------------------------------------------------


def in_chunks(function: Callable[..., Tensor | tuple], theta: Tensor, *others: Tensor, size: int):
    """`function` on `size` members at a time, results concatenated; the same numbers for any size."""
    if theta.shape[0] <= size:
        return function(theta, *others)
    parts = [function(*block) for block in zip(*(t.split(size) for t in (theta, *others)), strict=True)]
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return torch.cat(parts)


def chunk_size(problem, theta: Tensor, wanted: int | None = None) -> int:
    """Members of a chunk: `wanted`, or how many fit the cache (on an accelerator, a share of its memory) at once.

    All of them where each has rows of its own, since such a problem is made for exactly k members.
    """
    if getattr(problem, "own_rows", False):
        return len(theta)
    if wanted:
        return wanted
    budget = CACHE_BYTES if theta.device.type == "cpu" else DEVICE_BYTES
    per_member = getattr(problem, "activation_numel", problem.dim) * theta.element_size()
    return max(1, budget // max(1, per_member))


def loss(problem, theta: Tensor, chunk: int | None = None) -> Tensor:
    """Losses (k,) of the members theta (k, P), without a graph."""
    with torch.no_grad():
        return in_chunks(problem, theta, size=chunk_size(problem, theta, chunk))


def gradient(problem, theta: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """Losses (k,) and gradients (k, P)."""

    def value_and_gradient(block):
        block = block.detach().requires_grad_()
        value = problem(block)
        return value.detach(), torch.autograd.grad(value.sum(), block)[0]

    return in_chunks(value_and_gradient, theta, size=chunk_size(problem, theta, chunk))


def hessian_vector(problem, theta: Tensor, vector: Tensor, chunk: int | None = None) -> Tensor:
    """Products (k, P) of each member's Hessian with its vector (k, P), by a gradient of a gradient."""

    def product(block, direction):
        block = block.detach().requires_grad_()
        (slope,) = torch.autograd.grad(problem(block).sum(), block, create_graph=True)
        return torch.autograd.grad((slope * direction).sum(), block)[0]

    return in_chunks(product, theta, vector, size=chunk_size(problem, theta, chunk))
