"""The JSON object that a step returns to the orchestrator."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from trainyard_contract import RESULT_ERROR, RESULT_EXIT_CODE, RESULT_LIMIT_BYTES, RESULT_PATH, Env

from trainyard_trainer.errors import CodeError, storage_error

_MAX_MESSAGE = 600  # characters, of at most 6 bytes each in JSON


def _path() -> Path:
    return Path(os.environ.get(Env.RETURN_FILE) or RESULT_PATH)


def write(values: Mapping[str, object]) -> None:
    """Write the result in place: the file is a bind mount, which cannot be replaced by a rename.

    Raises CodeError when it is over the limit: XCom holds metadata, data is passed by URI.
    """
    text = json.dumps(values, sort_keys=True, allow_nan=False, ensure_ascii=False)
    size = len(text.encode())
    if size > RESULT_LIMIT_BYTES:
        raise CodeError(
            f"the result has {size} bytes, at most {RESULT_LIMIT_BYTES} are allowed; "
            "write data to --output and return its URI"
        )
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise storage_error("writing the result", path, error) from error


def write_failure(message: str, exit_code: int) -> None:
    """Write why the step failed in place of its result, so that the orchestrator can show it."""
    write({RESULT_ERROR: message[:_MAX_MESSAGE], RESULT_EXIT_CODE: exit_code})
