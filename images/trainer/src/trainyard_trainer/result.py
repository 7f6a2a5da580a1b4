"""The JSON object that a step hands back to the orchestrator."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from trainyard_trainer.errors import CodeError, storage_error

# The kubelet keeps 4096 bytes of a termination message; a longer one would be cut in the middle.
LIMIT_BYTES = 4000
_LONGEST_MESSAGE = 600  # characters, of at most 6 bytes each in JSON


def _path() -> Path:
    return Path(os.environ.get("TRAINYARD_RETURN") or "/airflow/xcom/return.json")


def write(values: Mapping[str, object]) -> None:
    """Write the result in place: the file is a bind mount, so it cannot be replaced by a rename.

    Raises CodeError when it is over the limit: XCom holds metadata, data goes by URI.
    """
    text = json.dumps(values, sort_keys=True, allow_nan=False, ensure_ascii=False)
    if len(text.encode()) > LIMIT_BYTES:
        raise CodeError(
            f"the result has {len(text.encode())} bytes, at most {LIMIT_BYTES} are allowed; "
            "write data to --output and return its URI"
        )
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise storage_error("writing the result", path, error) from error


def write_failure(message: str, exit_code: int) -> None:
    """Leave the reason where the result would be, so that whoever reads it can say why a step failed."""
    write({"error": message[:_LONGEST_MESSAGE], "exit_code": exit_code})
