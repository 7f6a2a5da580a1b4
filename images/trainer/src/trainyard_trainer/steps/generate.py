"""Deliver synthetic data, as an upstream system would."""

import hashlib

from trainyard_contract import DELIVERY_MARKER

from trainyard_trainer import log, storage
from trainyard_trainer.context import Context, Result
from trainyard_trainer.errors import storage_error
from trainyard_trainer.generators import Source, to_csv


def run(context: Context) -> Result:
    """Write NAME.csv into the directory --output, and then _SUCCESS, which marks it as complete."""
    source = Source.parse(context.dataset)
    columns = source.columns(context.params["date"])
    content = to_csv(columns)
    directory, name = storage.directory(context.output), f"{source.name}.csv"
    try:
        directory.remove(DELIVERY_MARKER)
        directory.publish(name, content)
        directory.publish(DELIVERY_MARKER, b"")
    except OSError as error:
        raise storage_error("writing the data", directory.place(name), error) from error
    log.event("generated", path=directory.place(name), bytes=len(content))
    return {
        "dataset": directory.uri_of(name),
        "rows": source.rows,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
