"""Check a data source against the rules of the model and copy it to the lake, unchanged."""

from trainyard_contract import Tag

from trainyard_trainer import lake
from trainyard_trainer.context import Context, Result


def run(context: Context) -> Result:
    """Write the dataset `raw` and return its URI."""
    columns = context.model.load(context.dataset, context.params)
    context.model.check(columns)
    rows = len(next(iter(columns.values())))
    dataset = lake.write(
        context.output,
        "raw",
        context.model.name,
        context.params["date"],
        columns,
        rows=rows,
        parent=context.dataset,
    )
    context.tracker.set_tags({Tag.RAW_DATA: dataset.uri})
    return {"dataset": dataset.uri, "version": dataset.version, "sha256": dataset.sha256, "rows": rows}
