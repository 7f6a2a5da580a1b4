"""Deliver synthetic data, as an upstream system would."""

import hashlib

from trainyard_contract import DELIVERY_MARKER

from trainyard_trainer import lake, log
from trainyard_trainer.context import Context, Result
from trainyard_trainer.errors import storage_error
from trainyard_trainer.generators import Source, to_csv


def run(context: Context) -> Result:
    """Write NAME.csv into the directory --output, and then _SUCCESS, which marks it as complete."""
    source = Source.parse(context.dataset)
    columns = source.columns(context.params["date"])
    content = to_csv(columns)
    directory = lake.local_path(context.output)
    path = directory / f"{source.name}.csv"
    try:
        (directory / DELIVERY_MARKER).unlink(missing_ok=True)
        lake.publish_file(path, content)
        lake.publish_file(directory / DELIVERY_MARKER, b"")
    except OSError as error:
        raise storage_error("writing the data", path, error) from error
    log.event("generated", path=str(path), bytes=len(content))
    return {
        "dataset": lake.file_uri(path),
        "rows": source.rows,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
