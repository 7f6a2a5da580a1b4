"""Tables from CSV files and generators, and the rules that their columns are checked against."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from trainyard_trainer import generators, storage
from trainyard_trainer.errors import BadConfig, BadData, storage_error
from trainyard_trainer.lake import Columns

_FIRST_LINE = 2  # line of a CSV file's first row, below the header
_MIN_ROWS_OF_CLASS = 20  # so that each split has some


@dataclass(frozen=True)
class Field:
    """A column: numbers lie between `low` and `high`, both included; a text is one of `choices`.

    A time is a number, or a date and time by ISO 8601, which become seconds; without a zone it is UTC.
    """

    kind: Literal["int", "float", "text", "time"]
    low: float = 0
    high: float = float("inf")
    choices: tuple[str, ...] = ()
    optional: bool = False  # a missing value is allowed, and is NaN; of floats only


Schema = Mapping[str, Field]
_DTYPES = {"int": np.int64, "float": np.float64}
_NUMBERS = {
    "int": "a whole number",
    "float": "a number",
    "time": "a number, or a date and time such as 2026-03-01T10:00:00",
}


def load(source: str, schema: Schema, date: str) -> Columns:
    """Read the schema's columns from generator://, a .csv file, or a directory with one .csv file.

    Other columns of a file are ignored. Raises BadConfig for another URI, BadData for an unreadable file.
    """
    if urlsplit(source).scheme == generators.SCHEME:
        columns: Mapping[str, Sequence[Any]] = generators.Source.parse(source).columns(date)
    elif urlsplit(source).scheme in storage.SCHEMES:
        columns = _read_csv(*_csv_file(source))
    else:
        raise BadConfig(f"--dataset is {source!r}; use generator://NAME, file:///.../NAME.csv, or s3://")
    _require_columns(columns, schema)
    return {name: _converted(name, columns[name], field) for name, field in schema.items()}


def check(columns: Columns, schema: Schema, *, label_column: str, min_rows: int) -> None:
    """Check columns, rows, values and the two classes, in this order. Raises BadData naming the rule."""
    _require_columns(columns, schema)
    rows = len(columns[label_column])
    if rows < min_rows:
        raise BadData(f"rule rows: there are {rows}, must be at least {min_rows}")
    for name, field in schema.items():
        _check_values(name, columns[name], field)


def check_classes(name: str, labels: npt.NDArray[Any]) -> None:
    """Check that both classes occur, with enough rows of each. Raises BadData."""
    counts = np.bincount(labels, minlength=2)
    if (counts == 0).any():
        raise BadData(f"rule classes: column {name!r} makes all rows class {counts.argmax()}, must have both")
    if counts.min() < _MIN_ROWS_OF_CLASS:
        raise BadData(
            f"rule classes: column {name!r} makes {counts.min()} rows class {counts.argmin()}, "
            f"must be at least {_MIN_ROWS_OF_CLASS}"
        )


def one_hot(values: npt.NDArray[Any], choices: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return one column for each choice: 1 where the value is that choice, else 0."""
    return (values[:, np.newaxis] == np.array(choices)).astype(np.float64)


def _csv_file(source: str) -> tuple[storage.Directory, str]:
    """Return a file's directory and name: the URI's own, or the only .csv file of the URI's directory."""
    if source.endswith(".csv"):
        return storage.file(source)
    directory = storage.directory(source)
    try:
        files = directory.files()
    except OSError as error:
        raise storage_error("listing", directory, error) from error
    names = [one.name for one in files if one.name.endswith(".csv") and "/" not in one.name]
    if len(names) != 1:
        raise BadData(f"rule file: directory {directory} holds {len(names)} .csv files, must hold one")
    return directory, names[0]


def _read_csv(directory: storage.Directory, name: str) -> dict[str, list[str]]:
    path = directory.place(name)
    try:
        text = directory.read(name).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(reader, [])
        rows = list(reader)
    except FileNotFoundError:
        raise BadData(f"rule file: there is no file {path}") from None
    except OSError as error:
        raise storage_error("reading the source", path, error) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"rule format: {path} cannot be read as CSV: {error}") from error
    if not any(header):
        raise BadData(f"rule empty: {path} is empty, must have a header and rows")
    if len(set(header)) < len(header):
        raise BadData(f"rule columns: {path} has two columns of one name, its header is {_short(header)}")
    if not rows:
        raise BadData(f"rule empty: {path} has a header and no rows")
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise BadData(
                f"rule format: {path} has {len(row)} values in {_position(number)}, its header {len(header)}"
            )
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def _require_columns(columns: Mapping[str, Any], schema: Schema) -> None:
    if missing := [name for name in schema if name not in columns]:
        raise BadData(
            f"rule columns: {', '.join(missing)} missing, must be {', '.join(schema)}; "
            f"found {_short(list(columns))}"
        )


def _converted(name: str, values: Sequence[Any], field: Field) -> npt.NDArray[Any]:
    """Convert to an array of the field's type; an empty text, as read from a file, is a missing value."""
    if isinstance(values, np.ndarray):
        return values
    if field.kind == "text":
        return np.array(values, dtype=np.str_)
    if field.optional:
        values = [value or "nan" for value in values]
    try:
        return _numbers(values, field)
    except (ValueError, OverflowError):
        row = next(row for row, value in enumerate(values) if not _is_number(value, field))
    wrong = f"is {values[row][:40]!r}" if values[row] else "is missing"
    raise BadData(
        f"rule {'type' if values[row] else 'missing'}: column {name!r} {wrong} in {_position(row)}, "
        f"must be {_NUMBERS[field.kind]}"
    )


def _numbers(values: Sequence[str], field: Field) -> npt.NDArray[Any]:
    if field.kind == "time":
        return np.array([_seconds(value) for value in values])
    return np.array(values, dtype=np.str_).astype(_DTYPES[field.kind])


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _is_number(text: str, field: Field) -> bool:
    try:
        _numbers([text], field)
    except (ValueError, OverflowError):
        return False
    return True


def _check_values(name: str, values: npt.NDArray[Any], field: Field) -> None:
    if field.kind == "text":
        _refuse(
            ~np.isin(values, field.choices), name, values, "choices", f"one of {', '.join(field.choices)}"
        )
        return
    if field.kind == "float":
        missing = np.isnan(values) & (not field.optional)
        _refuse(missing, name, values, "missing", "a number")
    outside = (values < field.low) | (values > field.high) | np.isinf(values)
    bounds = f"{field.low:g} to {field.high:g}" if np.isfinite(field.high) else f"at least {field.low:g}"
    _refuse(outside, name, values, "range", bounds)


def _refuse(bad: npt.NDArray[np.bool_], name: str, values: npt.NDArray[Any], rule: str, wanted: str) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        raise BadData(
            f"rule {rule}: column {name!r} must be {wanted} but is not in {len(rows)} rows, "
            f"the first is {values[rows[0]].item()!r} in {_position(int(rows[0]))}"
        )


def _position(row: int) -> str:
    return f"row {row} (line {row + _FIRST_LINE} of a CSV)"


def _short(names: Sequence[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 120 else text[:117] + "..."
