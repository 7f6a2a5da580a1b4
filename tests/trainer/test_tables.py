"""What is refused of a CSV file: the rule is named, and the column, and the first row that breaks it."""

import pytest
from conftest import completed
from trainyard_trainer.errors import BadConfig, BadData
from trainyard_trainer.generators import Source, to_csv
from trainyard_trainer.models.churn import Model

PARAMS = completed(Model(), {"date": "2026-03-01"})
LINES = to_csv(Source.parse("generator://customers?rows=600").columns("2026-03-01")).decode().splitlines()
HEADER = LINES[0].split(",")


def check(tmp_path, content: bytes) -> None:
    (tmp_path / "customers.csv").write_bytes(content)
    Model().check(Model().load(tmp_path.as_uri(), PARAMS))


def csv(lines: list[str]) -> bytes:
    return "\n".join(lines).encode()


def changed(row: int, column: str, value: str) -> bytes:
    lines = list(LINES)
    cells = lines[row + 1].split(",")
    cells[HEADER.index(column)] = value
    lines[row + 1] = ",".join(cells)
    return csv(lines)


def with_label(label: str, but: int = 0) -> bytes:
    other = "1" if label == "0" else "0"
    lines = [line[: line.rindex(",") + 1] for line in LINES[1:]]
    return csv([LINES[0], *(line + (other if row < but else label) for row, line in enumerate(lines))])


def test_good_files_pass(tmp_path):
    check(tmp_path, csv(LINES))
    check(tmp_path, b"\xef\xbb\xbf" + "\r\n".join(LINES).encode())  # as spreadsheets write it
    check(tmp_path, csv([line + ",more" for line in LINES]))
    check(tmp_path, changed(3, "age", ""))


@pytest.mark.parametrize(
    ("rule", "content"),
    [
        ("empty: .*customers.csv is empty", b""),
        ("empty: .*customers.csv is empty", b"\n\n"),
        ("empty: .* has a header and no rows", csv(LINES[:1])),
        ("format: .* cannot be read as CSV", b"\x89PNG\r\n\x1a\n\x00\xff"),
        ("format: .* cannot be read as CSV", csv(LINES[:5]) + b'\n"unfinished'),
        (r"format: .* has 2 values in row 599 \(line 601", csv([*LINES[:-1], "600,4"])),
        ("columns: age missing", csv([line.replace("age", "years", 1) for line in LINES])),
        (
            "columns: .* two columns of one name",
            csv([LINES[0] + ",age", *(line + ",1" for line in LINES[1:])]),
        ),
        ("rows: there are 99", csv(LINES[:100])),
        (r"type: column 'support_calls' is 'two' in row 7 \(line 9", changed(7, "support_calls", "two")),
        ("type: column 'support_calls' is '1.5' in row 7", changed(7, "support_calls", "1.5")),
        ("type: column 'tenure_months' is '99999999999999999999'", changed(7, "tenure_months", "9" * 20)),
        ("type: column 'age' is 'old'", changed(7, "age", "old")),
        ("missing: column 'support_calls' is missing in row 0", changed(0, "support_calls", "")),
        ("missing: column 'monthly_charge' is missing in row 7", changed(7, "monthly_charge", "")),
        ("missing: column 'monthly_charge' must be a number", changed(7, "monthly_charge", "nan")),
        ("choices: column 'contract' must be one of monthly", changed(7, "contract", "weekly")),
        ("range: column 'age' must be 16 to 120 .* first is 7.0 in row 7", changed(7, "age", "7")),
        ("range: column 'usage_hours' .* first is inf in row 7", changed(7, "usage_hours", "inf")),
        ("range: column 'has_churned' must be 0 to 1", changed(7, "has_churned", "2")),
        ("classes: column 'has_churned' makes all rows class 0", with_label("0")),
        ("classes: column 'has_churned' makes 5 rows class 0", with_label("1", but=5)),
    ],
)
def test_a_broken_rule_is_named(tmp_path, rule, content):
    with pytest.raises(BadData, match=f"rule {rule}"):
        check(tmp_path, content)


def test_other_sources_are_named(tmp_path):
    with pytest.raises(BadConfig, match="use generator://NAME, file:///"):
        Model().load("ftp://incoming/customers.csv", PARAMS)
    with pytest.raises(BadData, match="rule file: there is no file"):
        Model().load((tmp_path / "absent.csv").as_uri(), PARAMS)
    with pytest.raises(BadData, match=r"holds 0 \.csv files"):
        Model().load(tmp_path.as_uri(), PARAMS)
    with pytest.raises(BadData, match="rule columns: customer_id"):
        Model().load("generator://ratings", PARAMS)
