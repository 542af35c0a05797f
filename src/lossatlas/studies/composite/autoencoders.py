"""The autoencoder comparison: tenfold compression, codes that look like N(0, I), and the event of success.

Success: on held-out rows the squared error is at most that of as many principal components, and every latent statistic
is at most its 99th percentile for as many exact N(0, I) codes. `score` is the greatest log of a requirement over its
limit, so success is a score ≤ 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from math import log
from typing import Any

import torch
from torch import Tensor

from lossatlas import data, ensemble
from lossatlas.composite import goals
from lossatlas.composite.textures import NAME, textures
from lossatlas.data import DataSet
from lossatlas.problems.autoencoder import (
    AutoencoderProblem,
    Pca,
    VariationalProblem,
    convolutional,
    dense,
    patchwise,
    posterior_divergence,
    variational,
)
from lossatlas.problems.network import initial
from lossatlas.seeds import seed
from lossatlas.studies.composite.comparison import Outcome, log_uniform_weights

DIRECTIONS = 8  # of the sliced distance
SHOWN = 8  # held-out images whose reconstructions are kept
LN2 = log(2)
BITS_RANGE = 4.0  # codes are clipped to ±4 before they are rounded to 8 bits
DIVERGENCE_WEIGHTS = (1e-4, 1e-1)  # of a VAE's divergence beside the squared error, both means over their dimensions


def directions(dim: int) -> Tensor:
    """The directions (DIRECTIONS, dim) of the sliced distance, the same for all arms and seeds."""
    generator = torch.Generator().manual_seed(seed("composite", "directions", dim))
    return goals.unit_directions(DIRECTIONS, dim, generator)


@cache
def latent_limits(names: tuple[str, ...], rows: int, dim: int, level: float) -> Tensor:
    """The `level` quantile (n,) of each latent goal for `rows` exact N(0, I) codes, NaN for reconstruction goals."""
    latent = [i for i, name in enumerate(names) if name not in goals.RECONSTRUCTION]
    generator = torch.Generator().manual_seed(seed("composite", "limits", rows, dim))
    limits = torch.full((len(names),), torch.nan, dtype=torch.float64)
    limits[latent] = goals.feasible_limits(
        tuple(names[i] for i in latent), rows, dim, generator, directions=directions(dim), level=level
    ).double()
    return limits


@dataclass(frozen=True, eq=False)
class AutoencoderTask:
    """One data set and network of the comparison; see `comparison.Task`."""

    data_set: DataSet
    job: Mapping[str, Any]
    device: str

    @classmethod
    def load(cls, job: Mapping[str, Any], data_dir: str, download: bool, device: str) -> "AutoencoderTask":
        """The task of a job; see `lossatlas.data.load` and `lossatlas.composite.textures` for the errors."""
        if job["data"] == NAME:
            data_set = textures(job["side"], job["octaves"], job["rows"], job["test_rows"])
        else:
            folder = job["folder"] or None
            data_set = data.load(job["data"], data_dir, download=download, folder=folder, rows=job["rows"] or None)
        return cls(data_set, job, device)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.job["goals"])

    @property
    def losses(self) -> tuple[str, ...]:
        """What an arm weighs: the goals."""
        return self.names

    @property
    def reconstruction(self) -> Tensor:
        return torch.tensor([goal in goals.RECONSTRUCTION for goal in self.names])

    def static_weights(self, count: int, generator: torch.Generator) -> Tensor:
        """Weights (count, n) to tune over."""
        return log_uniform_weights(count, len(self.names), generator)

    def variational(self) -> "VariationalTask":
        """The same data, event and network as a variational autoencoder."""
        return VariationalTask(**{field.name: getattr(self, field.name) for field in fields(self)})

    @cached_property
    def limits(self) -> Tensor:
        """For an augmented Lagrangian: the median of each latent goal for exact codes of one minibatch, else NaN."""
        return self._limits(self.job["batch_size"], 0.5)

    @cached_property
    def split(self) -> DataSet:
        """For tuning: a quarter of the training rows held out."""
        return data.validation_split(self.data_set, len(self.data_set.train_y) // 4)

    def problem(self, tuning: bool) -> AutoencoderProblem:
        return self._on((self.split if tuning else self.data_set).train_x)

    def held_out(self, tuning: bool) -> AutoencoderProblem:
        return self._on((self.split if tuning else self.data_set).test_x)

    def starts(self, seeds: Sequence[int]) -> Tensor:
        return initial(self._build, [seed("composite", "init", self.job["name"], s) for s in seeds])

    def pca_error(self, tuning: bool) -> float:
        """Held-out squared error of as many principal components of the training rows as the code has numbers."""
        return self._pca_errors[tuning]

    @cached_property
    def _pca_errors(self) -> tuple[float, float]:
        parts = (self.data_set, self.split)
        return tuple(Pca.fit(part.train_x, self.job["latent"]).squared_error(part.test_x) for part in parts)

    def judged(self, theta: Tensor, tuning: bool) -> dict[str, Tensor]:
        problem = self.held_out(tuning)
        with torch.no_grad():
            outputs = problem.outputs(theta)
            # member by member: the images of one fit the cache
            members = zip(*(output.split(1) for output in outputs), strict=True)
            values = torch.cat([torch.stack([problem.goal(name)(m) for name in self.names], -1) for m in members])
            values = values.double().cpu()
            rounded = self._rounded(problem, theta, outputs[1])
        names, latent = self.names, ~self.reconstruction
        mse = values[:, names.index("mse")]
        limits = self._limits(problem.rows, 0.99)
        excess = (values[:, latent].clamp_min(1e-12) / limits[latent]).log()
        image = (mse / self.pca_error(tuning)).log()
        score = torch.maximum(image, excess.amax(1))
        columns = {
            "score": score,
            "success": score <= 0,
            "psnr": goals.psnr(mse),
            "psnr_8bit": goals.psnr(rounded),
            "image_excess": image,
            "latent_excess": excess.amax(1),
            "gap_bits": goals.gaussian_divergence(outputs[1]).double().cpu() / LN2,
        } | self._rate(outputs)
        return columns | {f"held_out_{name}": values[:, i] for i, name in enumerate(names)}

    def pictures(self, outcomes: Sequence[Outcome]) -> dict[str, Tensor]:
        """Of the first final seed of each arm: reconstructions (arms, SHOWN, C, H, W) and codes (arms, rows, d)."""
        problem = self.held_out(tuning=False)
        theta = torch.stack([outcome.final[0] for outcome in outcomes]).to(self.device)
        with torch.no_grad():
            x_hat, z, *_ = problem.outputs(theta)
        return {"images": problem.x[:SHOWN].cpu(), "reconstructions": x_hat[:, :SHOWN].cpu(), "codes": z.cpu()}

    def _on(self, x: Tensor) -> AutoencoderProblem:
        return replace(self._template, x=x.to(self.device))

    @cached_property
    def _template(self) -> AutoencoderProblem:
        along = directions(self.job["latent"]).to(self.device)
        with torch.random.fork_rng(devices=[]):  # the initialisation is not used
            module = self._build()
        return AutoencoderProblem(module.to(self.device), self.data_set.train_x, self.names, along)

    def _build(self):
        shape = tuple(self.data_set.train_x.shape[1:])
        if self.job["architecture"] == "convolutional":
            return convolutional(shape, self.job["hidden"][0], self.job["latent"])
        if self.job["architecture"] == "patches":
            return patchwise(shape, self.job["patch"], self.job["hidden"][0], self.job["latent"])
        return dense(shape, self.job["hidden"], self.job["latent"])

    def _rate(self, outputs) -> dict[str, Tensor]:
        """The column of bits that a number of the code carries about its image: none, if the code is deterministic."""
        return {}

    def _limits(self, rows: int, level: float) -> Tensor:
        return latent_limits(self.names, rows, self.job["latent"], level)

    def _rounded(self, problem: AutoencoderProblem, theta: Tensor, z: Tensor) -> Tensor:
        """Squared error (k,) with codes of 8 bits a number."""
        step = 2 * BITS_RANGE / 255
        codes = ((z.clamp(-BITS_RANGE, BITS_RANGE) + BITS_RANGE) / step).round() * step - BITS_RANGE
        decoder = ensemble.child_parameters(problem.layout.split(theta), "1")
        x_hat = ensemble.forward(problem.module[1], decoder, codes)
        return goals.squared(x_hat, problem.x[None]).double().cpu()


@dataclass(frozen=True, eq=False)
class VariationalTask(AutoencoderTask):
    """The rival without goals for the codes: squared error plus a tuned weight times the divergence.

    It is judged as the others are, on sampled codes, which are what its decoder was trained on.
    """

    @property
    def losses(self) -> tuple[str, ...]:
        return "mse", "divergence"

    def static_weights(self, count: int, generator: torch.Generator) -> Tensor:
        """The divergence's weights evenly over the decades of DIVERGENCE_WEIGHTS, in random order."""
        low, high = torch.tensor(DIVERGENCE_WEIGHTS, dtype=torch.float64).log()
        shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        weights = torch.lerp(low, high, shares).exp()[torch.randperm(count, generator=generator)]
        return torch.stack([torch.ones_like(weights), weights], -1)

    @cached_property
    def _template(self) -> VariationalProblem:
        found = super()._template
        noise = torch.Generator().manual_seed(seed("composite", self.job["name"], "reparametrisation"))
        shared = {field.name: getattr(found, field.name) for field in fields(found)}
        return VariationalProblem(**shared, noise=noise)

    def _build(self):
        return variational(super()._build())

    def _rate(self, outputs) -> dict[str, Tensor]:
        return {"rate_bits": posterior_divergence(outputs[2]).double().cpu() / LN2}
