"""Compute features from a raw dataset, in parallel to preprocess: later steps join them to rows by id."""

from trainyard_contract import Tag

from trainyard_trainer import lake
from trainyard_trainer.context import Context, Result


def run(context: Context) -> Result:
    """Write the dataset `features` and return its URI."""
    columns, raw = lake.read(context.dataset)
    context.model.check(columns)
    features = context.model.features(columns)
    rows = len(features["ids"])
    dataset = lake.write(
        context.output,
        "features",
        context.model.name,
        context.params["date"],
        features,
        rows=rows,
        parent=raw.uri,
    )
    context.tracker.set_tags({Tag.FEATURES: dataset.uri, Tag.FEATURES_VERSION: dataset.version})
    return {"dataset": dataset.uri, "version": dataset.version, "sha256": dataset.sha256, "rows": rows}
