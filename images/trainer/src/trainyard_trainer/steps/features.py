"""Work features out of a raw dataset, beside the cleaning: the rows are joined by their ids later."""

from trainyard_trainer import lake
from trainyard_trainer.context import Context, Result


def run(context: Context) -> Result:
    """Write the dataset `features` and return where it is."""
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
    context.tracker.tag({"trainyard.features": dataset.uri, "trainyard.features_version": dataset.version})
    return {"dataset": dataset.uri, "version": dataset.version, "sha256": dataset.sha256, "rows": rows}
