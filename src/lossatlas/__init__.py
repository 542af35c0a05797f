"""Loss Atlas: rough neural-network loss landscapes, what is said about them, and whether it holds."""

from importlib import import_module

_OFFERED = {"connect": ("lossatlas.elastic_band", "connect_networks")}


def __getattr__(name: str):
    """The methods as a library, imported when they are first used: `import lossatlas` alone stays cheap."""
    if name not in _OFFERED:
        raise AttributeError(f"module 'lossatlas' has no attribute {name!r}")
    module, attribute = _OFFERED[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_OFFERED])
