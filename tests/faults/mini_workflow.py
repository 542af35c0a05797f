"""A small workflow of real `script:` jobs, two random walks that resume, their scaling, and a table."""

import hashlib
import shutil
import textwrap
from pathlib import Path

PROFILE = Path(__file__).parents[2] / "profiles" / "default" / "profile.yaml"

FILES = {
    "Snakefile": """
        from lossatlas.code_hash import code
        from lossatlas.run_lock import take_run_lock

        onstart:
            take_run_lock()

        rule all:
            input: "results/summary.csv"

        rule walk:
            output: "results/walk {name}.npz"
            log: "logs/walk {name}.log"
            params: steps=12, name="{name}", code=code("minilab.walk")
            threads: 1
            script: "scripts/walk.py"

        rule scale:
            input: "results/walk {name}.npz"
            output: "results/scaled {name}.npz"
            log: "logs/scale {name}.log"
            params: factor=0.1, code=code("minilab.scale")
            threads: 1
            script: "scripts/scale.py"

        rule summary:
            input: expand("results/scaled {name}.npz", name=["a", "b"])
            output: "results/summary.csv"
            log: "logs/summary.log"
            params: code=code("minilab")
            threads: 1
            script: "scripts/summary.py"
        """,
    "scripts/walk.py": """
        from lossatlas import job
        with job.start(snakemake) as path:
            from lossatlas import artifacts
            from lossatlas.checkpoint import Checkpoint
            from minilab.walk import walk
            steps, name, code = snakemake.params.steps, snakemake.params.name, snakemake.params.code
            parameters = {"steps": steps, "name": name}
            places = walk(steps, name, Checkpoint(path, parameters, code))
            artifacts.save(snakemake.output[0], {"places": places}, parameters=parameters, code=code)
        """,
    "scripts/scale.py": """
        from lossatlas import job
        with job.start(snakemake):
            from lossatlas import artifacts
            from minilab.scale import scale
            source, factor = snakemake.input[0], snakemake.params.factor
            places = scale(artifacts.load(source)["places"], factor)
            artifacts.save(
                snakemake.output[0],
                {"places": places},
                parameters={"factor": factor},
                inputs=[source],
                code=snakemake.params.code,
            )
        """,
    "scripts/summary.py": """
        import os
        from lossatlas import job
        from lossatlas.errors import LossAtlasError
        with job.start(snakemake):
            from lossatlas import artifacts
            print("this goes to the log")
            if os.environ.get("MINI_FAIL") == "sentence":
                raise LossAtlasError("the kettle is empty: fill it")
            if os.environ.get("MINI_FAIL") == "bug":
                {}["kettle"]
            walks = {path: artifacts.load(path)["places"] for path in snakemake.input}
            rows = [{"file": path, "mean": x.mean(), "std": x.std()} for path, x in walks.items()]
            artifacts.save_table(
                snakemake.output[0], rows, parameters={}, inputs=snakemake.input, code=snakemake.params.code
            )
        """,
    "minilab/__init__.py": "",
    "minilab/walk.py": """
        import os
        import time
        import numpy as np

        def walk(steps, name, checkpoint):
            rng = np.random.default_rng(list(name.encode()))
            places = [np.zeros(3)]
            if saved := checkpoint.load():
                places, rng.bit_generator.state = saved["places"], saved["rng"]
                print(f"resumed at step {len(places)}")
            while len(places) < steps:
                places.append(places[-1] + rng.normal(size=3))
                checkpoint.save({"places": places, "rng": rng.bit_generator.state})
                time.sleep(float(os.environ.get("MINI_PAUSE", "0")))
            return np.array(places)
        """,
    "minilab/scale.py": """
        def scale(places, factor):
            return places * factor  # by a factor
        """,
}


def write_files(folder, files):
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
    (folder / "profiles" / "default").mkdir(parents=True)
    shutil.copy(PROFILE, folder / "profiles" / "default")
    return folder


def hashes(folder):
    """{path: sha256} of everything under `results/`."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "results").rglob("*"))
        if path.is_file()
    }
