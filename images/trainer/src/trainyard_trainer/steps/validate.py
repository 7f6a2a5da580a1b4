"""Check a data source and the split of its rows against the rules, and copy it to the lake, unchanged."""

from trainyard_contract import NO_SPLIT, Tag

from trainyard_trainer import lake, leakage, log
from trainyard_trainer.context import Context, Result
from trainyard_trainer.lake import Columns


def run(context: Context) -> Result:
    """Write the dataset `raw`; return its URI and what was found in the split that preprocess will make."""
    columns = context.model.load(context.dataset, context.params)
    context.model.check(columns)
    found = _check_split(context, columns)
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
    return {
        "dataset": dataset.uri,
        "version": dataset.version,
        "sha256": dataset.sha256,
        "rows": rows,
        **found,
    }


def _check_split(context: Context, columns: Columns) -> Result:
    """Check the split for leakage; return and tag what it is, and what needs attention."""
    model, params = context.model, context.params
    if params["split"] == NO_SPLIT:
        return {}
    rows = model.clean(columns)
    split = model.split(columns, rows, params)
    findings = leakage.check(rows, split, input_names=model.input_names, max_repeated=params["max_repeated"])
    tell = log.warning if findings.telling_inputs else log.event
    tell("leakage_checked", split=str(split), findings=str(findings))
    context.tracker.set_tags({Tag.SPLIT: str(split), Tag.LEAKAGE: str(findings)})
    return {
        "split": str(split),
        "repeated_rows": findings.repeated_rows,
        "telling_inputs": findings.telling_inputs,
    }
