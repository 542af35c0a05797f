"""`python -m benchmarks` prints what is measured beside what is promised; `python -m benchmarks sweep` a part of it."""

import os
import platform
import sys

import torch

from benchmarks import band, composite, ensemble, evolution, perlin, sweep, teleport
from benchmarks.measure import HEADER

ALL = {
    "sweep": sweep,
    "ensemble": ensemble,
    "band": band,
    "teleport": teleport,
    "evolution": evolution,
    "perlin": perlin,
    "composite": composite,
}


def main() -> None:
    names = sys.argv[1:] or list(ALL)
    if unknown := set(names) - set(ALL):
        sys.exit(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start\n")
    print(HEADER)
    for name in names:
        for speed in ALL[name].speeds():
            print(speed.row(), flush=True)


if __name__ == "__main__":
    main()
