import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "src"))

from lossatlas.code_hash import code
from lossatlas.config import load_schema, validate
from lossatlas.console import cost_line, done_line, failure_lines
from lossatlas.data_files import check as check_data
from lossatlas.errors import LossAtlasError
from lossatlas.gpu import gpu_count
from lossatlas.run_lock import take_run_lock

try:
    config.update(
        validate(
            config,
            load_schema(Path(workflow.basedir) / "workflow/schemas/config.schema.yaml"),
        )
    )
except LossAtlasError as error:
    raise WorkflowError(str(error)) from None

tier = config["tier"]
# What a refused result tells the user to type.
os.environ.update(
    LOSSATLAS_RUN="snakemake --cores all"
    + (f" --configfile config/{tier}.yaml" if tier != "default" else "")
)
workflow.global_resources.setdefault("gpu", gpu_count())


def take_the_run():
    try:
        take_run_lock()
        check_data(workflow.dag.needrun_jobs(), config)
    except LossAtlasError as error:
        raise WorkflowError(str(error)) from None


# A study's rule file adds to these before any job runs.
BASELINES = {}  # what is trained, {name: settings}
STUDIES = []
FIGURES = []  # file names without suffix, in the order of the report


wildcard_constraints:
    ensemble=r"[a-z0-9_-]+",
