"""`python -m lossatlas ...`: what is not a rule of the workflow."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lossatlas import acceptance
from lossatlas.config import load_schema, reference_page
from lossatlas.errors import LossAtlasError

SCHEMA = Path("workflow/schemas/config.schema.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command from the project's root; 0 if it went well, 1 with one sentence if not."""
    parser = argparse.ArgumentParser(prog="lossatlas", description="Loss Atlas: commands beside `snakemake`.")
    commands = parser.add_subparsers(dest="command", required=True)
    accept = commands.add_parser("accept", help="make a finished run the committed reference of its tier")
    accept.add_argument("--tier", default="default", help="smoke, default or paper (default: %(default)s)")
    commands.add_parser("readme", help="write the accepted claims table into README.md")
    commands.add_parser("config-reference", help="print the reference page of the config (config/README.md)")
    options = parser.parse_args(arguments)
    try:
        match options.command:
            case "accept":
                print("\n".join(acceptance.accept(Path(), options.tier)))
            case "readme":
                acceptance.write_readme(Path())
            case "config-reference":
                print(reference_page(load_schema(SCHEMA)), end="")
    except LossAtlasError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
