"""Convert a raw dataset to inputs and labels for training, validation and test."""

from trainyard_contract import Tag

from trainyard_trainer import lake
from trainyard_trainer.context import Context, Result


def run(context: Context) -> Result:
    """Write the dataset `processed` and return its URI and the number of rows of each split."""
    columns, raw = lake.read(context.dataset)
    context.model.check(columns)
    splits = context.model.preprocess(columns, context.params)
    rows = {
        f"{name.removesuffix('_labels')}_rows": len(values)
        for name, values in splits.items()
        if name.endswith("_labels")
    }
    dataset = lake.write(
        context.output,
        "processed",
        context.model.name,
        context.params["date"],
        splits,
        rows=sum(rows.values()),
        parent=raw.uri,
    )
    context.tracker.set_tags({Tag.DATA: dataset.uri, Tag.DATA_VERSION: dataset.version})
    return {
        "dataset": dataset.uri,
        "version": dataset.version,
        "sha256": dataset.sha256,
        "rows": sum(rows.values()),
        **rows,
    }
