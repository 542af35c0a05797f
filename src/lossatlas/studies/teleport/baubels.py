"""The leap of baubels/gradient_teleportation taken apart: more steps, a new first layer, its rate, and the teleport.

The released notebook takes one long epoch at the teleport (1875 steps after five of 313), initialises the layer before
the chosen one anew, and multiplies the chosen one by a pseudo-inverse that makes it about 8 times larger, which raises
the effective rate of the layer before by about 67. Each of these is an arm of its own here, with equal steps, data that
are not trained on, and exact teleports beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas import data
from lossatlas.minibatches import minibatch_rows
from lossatlas.problems.network import NetworkProblem, initial
from lossatlas.progress import progress
from lossatlas.seeds import seed
from lossatlas.studies.teleport.classifiers import evaluated, table
from lossatlas.studies.teleport.descent import Descent, members
from lossatlas.teleport import Ascent, BestOf, Corner, shifted, teleport
from lossatlas.teleport.general_linear import GeneralLinear
from lossatlas.teleport.groups import PositiveScaling

LONG = 6  # 1875 / 313
LAYER_RATE = 67.0
GL_CANDIDATES = 50  # each costs a gradient; the notebook's 1000 differ by less than two per cent in its score
ARMS = ("none", "published", "long epoch", "new layer", "larger layer", "layer rate", "layer rate, long epoch",
        "gl-best", "gl-ascent", "gl-random", "scaling-corner", "scaling-best", "shift")  # fmt: skip


def build(widths: Sequence[int]) -> nn.Sequential:
    """Leaky ReLU(0.01) also at the output, softmax outputs into a cross-entropy that takes logits: as released."""
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers, nn.Softmax(dim=-1))


def released_inverse(size: int, generator: torch.Generator) -> Tensor:
    """g⁺ (size, size) of the notebook: g ~ U(0, 1), its diagonal the row sums, of Frobenius norm 1."""
    g = torch.rand(size, size, generator=generator, dtype=torch.float64)
    g = g - g.diag().diag() + g.sum(-1).diag()
    return torch.linalg.pinv(g / g.norm())


def measure(settings: Mapping[str, Any], data_set: data.DataSet) -> tuple[dict[str, list], dict[str, Tensor]]:
    """One row a run, and test accuracies (members, epochs) by arm."""
    flat = data_set.flat()
    widths = (flat.train_x.shape[1], *settings["hidden"], flat.classes)
    with torch.random.fork_rng(devices=[]):
        module = build(widths).double()
    train = NetworkProblem(module, flat.train_x.double(), flat.train_y)
    test = replace(train, x=flat.test_x.double(), y=flat.test_y)
    seeds = list(range(settings["seeds"]))
    which, rates = members(seeds, settings["rates"])
    orders = [seeds[i] for i in which]
    start = initial(lambda: build(widths), [seed("teleport", "baubels", s) for s in seeds]).double()[which]
    anew = initial(lambda: build(widths), [seed("teleport", "baubels", "anew", s) for s in seeds]).double()[which]
    first = torch.cat(
        [
            torch.full((size,), float(name.startswith("0.")))
            for name, size in zip(train.layout.names, train.layout.sizes, strict=True)
        ]
    )
    rows, curves = [], {}
    for arm in progress(ARMS, "leap"):
        descent = Descent(start, "sgd", rates)
        accuracies, gain, change = [], torch.full((len(orders),), torch.nan), torch.zeros(len(orders))
        for epoch in range(settings["epochs"]):
            steps = settings["steps"]
            if epoch == settings["at"]:
                batch = train.on(next(iter(minibatch_rows(train.rows, settings["batch"], orders, 1000))))
                found = _change(arm, descent, batch, anew, first, orders, settings)
                if found is not None:
                    gain, change = found.gain, found.loss_change.abs()
                steps *= LONG if arm in ("published", "long epoch", "layer rate, long epoch") else 1
            order = minibatch_rows(train.rows, settings["batch"], orders, epoch)
            taken = 0
            while taken < steps:
                for chosen in order:
                    if taken == steps:
                        break
                    descent.step(train.on(chosen))
                    taken += 1
                order = minibatch_rows(train.rows, settings["batch"], orders, 10_000 + epoch + taken)
            accuracies.append(1 - evaluated(test, descent.theta)[1])
        curve = torch.stack(accuracies, -1)
        curves[arm] = curve.float()
        at = settings["at"]
        rows += [
            {
                "arm": arm,
                "seed": orders[i],
                "rate": rates[i].item(),
                "before": curve[i, at - 1].item(),
                "leap": (curve[i, at] - curve[i, at - 1]).item(),
                "final": curve[i, -1].item(),
                "gain": gain[i].item(),
                "loss_change": change[i].item(),
                "diverged_at": descent.diverged_at[i].item(),
            }
            for i in range(len(orders))
        ]
    return table(rows), curves


def _change(arm: str, descent: Descent, batch: NetworkProblem, anew: Tensor, first: Tensor, orders, settings):
    """Do what an arm does at the teleport; what was recorded, if it is a teleport."""
    draws = tuple(seed("teleport", "baubels", "draw", s) for s in orders)
    if arm in ("published", "new layer"):
        descent.move(torch.where(first.bool(), anew, descent.theta))
    if arm in ("published", "larger layer"):
        descent.move(_enlarged(descent.theta, batch, draws))
    if arm.startswith("layer rate"):
        descent.rates = descent.rates * (1 + (LAYER_RATE - 1) * first.double())
    radius = settings["gl_radius"]
    searches = {
        "gl-best": (GeneralLinear, BestOf(GL_CANDIDATES, radius, draws)),
        "gl-ascent": (GeneralLinear, Ascent(radius)),
        "gl-random": (GeneralLinear, BestOf(1, radius, draws)),
        "scaling-corner": (PositiveScaling, Corner(settings["scaling_bound"])),
        "scaling-best": (
            PositiveScaling,
            BestOf(settings["candidates"], settings["scaling_bound"] * sum(settings["hidden"]) ** 0.5, draws),
        ),
        "shift": (PositiveScaling, Corner(settings["scaling_bound"])),
    }
    if arm not in searches:
        return None
    kind, search = searches[arm]
    found = teleport(batch, descent.theta, kind(batch), search)
    if arm == "shift":
        descent.move(shifted(descent.theta, found.distance, draws))
        return None
    descent.teleport(None, found)
    return found


def _enlarged(theta: Tensor, batch: NetworkProblem, draws: Sequence[int]) -> Tensor:
    """The second layer times g⁺."""
    params = dict(batch.layout.split(theta))
    size = params["2.weight"].shape[-1]
    inverses = torch.stack([released_inverse(size, torch.Generator().manual_seed(s)) for s in draws])
    params["2.weight"] = params["2.weight"] @ inverses
    return torch.cat([params[name].flatten(1) for name in batch.layout.names], -1)
