"""The state of a running computation, bit by bit, in an artifact that replaces its predecessor.

A state is a tree of dicts, lists, tuples, numbers, texts, arrays and torch tensors, so the `state_dict()` of modules
and optimizers and the `get_state()` of generators fit as they are.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossatlas.artifacts import load, save
from lossatlas.errors import LossAtlasError
from lossatlas.progress import say

_TREE = "tree"


@dataclass(frozen=True)
class Checkpoint:
    """Where a computation with these parameters and this code finds its place again after a kill."""

    path: str | os.PathLike
    parameters: Mapping[str, Any]
    code: str

    def save(self, state: Any) -> None:
        """Keep `state`; the one before stays until this one is complete.

        Raises `LossAtlasError` for a state that holds anything else than the module's docstring names.
        """
        arrays: dict[str, np.ndarray] = {}
        tree = json.dumps(_pack(state, arrays))
        save(self.path, {**arrays, _TREE: np.array(tree)}, parameters=self.parameters, code=self.code)

    def load(self) -> Any | None:
        """The state with its tensors on the CPU, or None where there is none of these parameters and code.

        A damaged checkpoint or one of another run is named on the console: it costs time, no more.
        """
        if not os.path.exists(self.path):
            return None
        try:
            arrays = load(self.path, parameters=self.parameters, code=self.code, remedy="a start from zero")
        except LossAtlasError as error:
            say(f"not resumed: {error}")
            return None
        return _unpack(json.loads(str(arrays[_TREE])), arrays)


def _pack(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    """JSON for `node`, every container tagged; arrays and tensors go to `arrays` under a running number."""
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, Mapping):
        return {"dict": [[_pack(key, arrays), _pack(value, arrays)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return {"list" if isinstance(node, list) else "tuple": [_pack(item, arrays) for item in node]}
    name = str(len(arrays))
    if isinstance(node, np.ndarray | np.generic):
        arrays[name] = np.asarray(node)
        return {"array": name}
    if hasattr(node, "detach"):
        import torch

        # as bytes, since numpy has no bfloat16
        tensor = node.detach().cpu().contiguous()
        arrays[name] = tensor.reshape(-1).view(torch.uint8).numpy()
        return {
            "tensor": name,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
        }
    raise LossAtlasError(f"a checkpoint cannot hold a {type(node).__name__}")


def _unpack(node: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(node, dict):
        return node
    if "dict" in node:
        return {_unpack(key, arrays): _unpack(value, arrays) for key, value in node["dict"]}
    if "list" in node:
        return [_unpack(item, arrays) for item in node["list"]]
    if "tuple" in node:
        return tuple(_unpack(item, arrays) for item in node["tuple"])
    if "array" in node:
        return arrays[node["array"]]
    import torch

    tensor = torch.empty(node["shape"], dtype=getattr(torch, node["dtype"]))
    tensor.reshape(-1).view(torch.uint8).copy_(torch.from_numpy(arrays[node["tensor"]]))
    return tensor
