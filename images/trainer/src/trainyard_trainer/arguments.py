"""The command line: `trainer <step> --run-key K --dataset URI --output URI [--params JSON]`.

Imports neither numpy nor torch, so that tests of the DAGs can parse the arguments of their pods.
"""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from trainyard_contract import (
    COMMAND,
    DATASET_FLAG,
    OUTPUT_FLAG,
    PARAMS_FLAG,
    RESUME_FLAG,
    RUN_KEY,
    RUN_KEY_FLAG,
    RUN_KEY_RULE,
    STEPS,
)

from trainyard_trainer.errors import BadConfig


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadConfig(f"{message}; see {COMMAND} --help")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of one step. Raises BadConfig."""
    parsed = _parser().parse_args(arguments)
    if not RUN_KEY.fullmatch(parsed.run_key):
        raise BadConfig(f"{RUN_KEY_FLAG} is {parsed.run_key!r}; {RUN_KEY_RULE}")
    return parsed


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=COMMAND, description="Run one step of a model's training.", allow_abbrev=False)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument(RUN_KEY_FLAG, required=True, help="identifies the run across all its attempts")
    parser.add_argument(DATASET_FLAG, required=True, metavar="URI", help="what the step reads")
    parser.add_argument(OUTPUT_FLAG, required=True, metavar="URI", help="where the step writes")
    parser.add_argument(PARAMS_FLAG, default="{}", metavar="JSON", help="parameters as one JSON object")
    parser.add_argument(
        RESUME_FLAG, action="store_true", help="resume from the newest checkpoint, if there is one"
    )
    return parser
