"""Model files: what they may say, and what is said of those that say something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from trainyard.factory.spec import ApprovalSettings, DeploySettings, ModelSpec, parse_spec, schema
from trainyard.factory.yaml_document import DocumentError
from trainyard.platform import Platform

ROOT = Path(__file__).parents[3]
LEAST = """\
description: Who leaves
data: generator://customers?rows=100&seed=1
train: {pool: ondemand}
gate: {metric: roc_auc, minimum: 0.7}
"""


def parse(text: str, name: str = "churn") -> ModelSpec:
    from trainyard.platform import load_platform

    return parse_spec(text, name, load_platform())


def problems(text: str, name: str = "churn") -> list[str]:
    """What is wrong with a model file, as `LINE:COLUMN message`."""
    with pytest.raises(DocumentError) as error:
        parse(text, name)
    return [f"{p.line}:{p.column} {p.message}" for p in error.value.problems]


def changed(line: str) -> str:
    """The least file with one more line, its fifth."""
    return f"{LEAST}{line}\n"


def test_the_least_file_gets_the_defaults_of_the_schema() -> None:
    spec = parse(LEAST)
    assert (spec.dag_id, spec.model, spec.owner) == ("churn_training", "churn", "ml-platform")
    assert spec.registered_as == "churn"
    assert (spec.schedule, spec.asset, spec.features, spec.image) == (None, None, False, None)
    assert (spec.approval, spec.deploy, spec.split) == (None, None, {})
    assert (spec.train.gpus, spec.train.deadline) == (1, timedelta(hours=2))
    assert spec.gate.min_improvement == 0.005
    assert (spec.retries, spec.timeout, spec.max_active_runs) == (2, timedelta(hours=12), 1)


def test_every_key_can_be_given() -> None:
    spec = parse(
        """\
model: fraud
registered_as: cards
description: Which transactions are fraud
owner: risk-team
tags: [cards]
schedule: {asset: "s3://incoming/transactions"}
data: file:///data/incoming/transactions/date={date}
features: true
split: {by: time, column: paid_at, max_repeated: 0.05}
image: team.example:5000/trainer:1.2.0
train:
  pool: spot
  gpus: 1
  nodes: 1
  fallback: cpu
  fallback_after: 10m
  escalate_to: ondemand
  resources: {requests: {cpu: 1, memory: 1Gi}, limits: {cpu: 500m}}
  shared_memory_size: 8Gi
  deadline: 1d
  params:
    {epochs: 3, batch_size: 32, learning_rate: 1e-3, seed: 1, hidden: 8, dropout: 0, weight_decay: 0.1,
     schedule: cosine, warmup: 0.1, max_gradient_norm: 1, accumulate: 2, precision: bfloat16,
     deterministic: false}
gate: {metric: average_precision, minimum: 0.5, min_improvement: 0}
approval: {timeout: 2h, approvers: [anna, 2]}
deploy: {replicas: 2}
notify: always
quota: {max_active_runs: 2}
retries: 0
timeout: 2d
"""
    )
    assert (spec.name, spec.model, spec.asset) == ("churn", "fraud", "s3://incoming/transactions")
    assert spec.registered_as == "cards"
    assert spec.split == {"by": "time", "column": "paid_at", "max_repeated": 0.05}
    assert spec.train.resources["requests"] == {"cpu": "1", "memory": "1Gi"}
    assert (spec.train.shared_memory_size, spec.train.scratch_size) == ("8Gi", None)
    params = spec.train.params
    assert (params["learning_rate"], params["schedule"], params["deterministic"]) == (0.001, "cosine", False)
    assert spec.approval == ApprovalSettings(timedelta(hours=2), ("anna", "2"))
    assert (spec.deploy, spec.notify, spec.max_active_runs) == (DeploySettings(2), "always", 2)
    assert spec.timeout == timedelta(days=2)


def test_true_means_the_defaults() -> None:
    spec = parse(changed("approval: true\ndeploy: true"))
    assert (spec.approval, spec.deploy) == (ApprovalSettings(timedelta(hours=8), ()), DeploySettings(1))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("onwer: me", "5:1 onwer: unknown key; did you mean 'owner'?"),
        ("zzz: 1", "5:1 zzz: unknown key; remove it. Known: description, owner"),
        ("retries: many", "5:1 retries: expected a whole number, got the text 'many'"),
        ("retries: 1.5", "5:1 retries: expected a whole number, got the number 1.5"),
        ("retries: 11", "5:1 retries: 11 is more than 10"),
        ("retries:", "5:1 retries: expected a whole number, got nothing"),
        ("features: maybe", "5:1 features: expected true or false, got the text 'maybe'"),
        ("split: {by: month}", "5:9 split.by: 'month' is none of random, time, group"),
        ("split: {column: day}", "5:1 split: by is missing; add split.by"),
        ("split: {by: time, column: '{{ ds }}'}", "5:19 split.column: the text '{{ ds }}' does not fit"),
        ("split: {by: time, max_repeated: 2}", "5:19 split.max_repeated: 2 is more than 1"),
        ("tags: [a, 1]", "5:11 tags[1]: expected text, got the number 1"),
        ("owner: yes", "5:1 owner: expected text, got true"),
        ("timeout: 12", "5:1 timeout: expected text, got the number 12"),
        ("timeout: 12x", "5:1 timeout: the text '12x' does not fit; it is meant as: how long a run may take"),
        ("schedule: every day", "5:1 schedule: 'every day' is no cron expression; write five fields"),
        ("schedule: '61 * * * *'", "5:1 schedule: '61 * * * *' is no cron expression ("),
        ("schedule: '0 0 31 2 *'", "5:1 schedule: '0 0 31 2 *' is no cron expression ("),
        ("schedule: '@sometimes'", "one of @hourly, @daily"),
        ("schedule: {aset: 's3://x/y'}", "5:12 schedule.aset: unknown key; did you mean 'asset'?"),
        ("image: 'My Image'", "5:1 image: the text 'My Image' does not fit; it is meant as: another image"),
        ("quota: {max_active_runs: 0}", "5:9 quota.max_active_runs: 0 is less than 1"),
        ("approval: {approvers: [0]}", "5:24 approval.approvers[0]: 0 is less than 1"),
        ("approval: {timeout: 2d}", "5:12 approval.timeout: is longer than timeout"),
        ("approval: true\ntimeout: 1h", "5:1 approval.timeout: is longer than timeout"),
        ("deploy: {replicas: 99}", "5:10 deploy.replicas: 99 is more than 50"),
        ("retries: .nan", "5:10 retries: nan is no usable number"),
        ("description: again", "5:1 description: given twice, first in line 1; remove one of them"),
        ("tags: &a [x]\nowner: *a", "6:8 not YAML: aliases are not supported; write the value out"),
        ("owner: a: b", "5:9 not YAML: mapping values are not allowed here"),
        ("tags: [a, b", "that began in line 5"),
        ("\towner: me", "5:1 a tab; YAML indents with spaces"),
        ("owner: !!python/object:os.system x", "5:8 owner: YAML cannot read 'x'"),
        ("owner: 2026-99-99", "5:8 owner: YAML cannot read '2026-99-99' as timestamp; put text in quotes"),
        ("? [a]\n: b", "5:3 the file: a key must be a word"),
    ],
)
def test_a_bad_line_is_named_with_its_place_and_cure(line: str, expected: str) -> None:
    found = problems(changed(line))
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("{pool: cloud}", "3:9 train.pool: no GPU pool 'cloud'; choose one of: ondemand, spot, or add it"),
        ("{pool: spot, escalate_to: x}", "3:21 train.escalate_to: no GPU pool 'x'"),
        ("{pool: spot, gpus: 2}", "3:21 train.gpus: 2 GPUs, but a node of pool spot has 1; ask for fewer"),
        ("{pool: null, fallback: cpu}", "3:21 train.fallback: is for training on GPUs"),
        ("{pool: spot, fallback: tpu}", "3:21 train.fallback: 'tpu' is none of cpu, null"),
        ("{pool: spot, deadline: 13h}", "3:21 train.deadline: is longer than timeout"),
        ("{pool: spot, params: {epoch: 3}}", "3:30 train.params.epoch: unknown key; did you mean 'epochs'?"),
        ("{pool: spot, params: {epochs: 1e30}}", "1e+30 is more than 10000"),
        (
            "{pool: spot, params: {seed: 99999999999999999999}}",
            "train.params.seed: 99999999999999999999 is more",
        ),
        ("{pool: spot, params: {dropout: [0]}}", "train.params.dropout: expected a number, got a list"),
        (
            "{pool: spot, resources: {requests: {cpu: 0}}}",
            "train.resources.requests.cpu: 0 is not more than 0",
        ),
        ("{pool: spot, nodes: 2}", "train.nodes: 2 nodes with 1 GPUs each, but pool spot has 1 GPUs"),
        ("{nodes: 2, fallback: cpu}", "train.fallback: a CPU cannot replace several nodes"),
        ("{pool: [spot]}", "3:9 train.pool: expected text or a whole number or null, got a list"),
        ("{escalate_to: 7}", "3:9 train.escalate_to: no GPU pool '7'"),
    ],
)
def test_what_is_wrong_with_training_is_named(train: str, expected: str) -> None:
    text = LEAST.replace("{pool: ondemand}", train)
    assert any(expected in problem for problem in problems(text)), problems(text)


@pytest.mark.parametrize(
    "data", ["data/x.csv", "http://example.com/x.csv", "file:///data/{day}", "file:///data/{{ ds }}", "''"]
)
def test_data_is_a_uri_that_the_trainer_knows(data: str) -> None:
    text = LEAST.replace("generator://customers?rows=100&seed=1", data if "'" in data else f'"{data}"')
    (problem,) = problems(text)
    assert problem.startswith("2:1 data: ") and "generator://NAME" in problem


def test_all_problems_are_told_at_once_in_the_order_of_the_lines() -> None:
    found = problems("gate: {metric: 1}\nonwer: me\ntrain: {pool: spot, gpus: x}\n")
    assert [problem.split(":")[0] for problem in found] == ["1", "1", "1", "1", "2", "3"], found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1 the file is empty"),
        ("# nothing\n", "1:1 the file is empty"),
        ("- a\n", "1:1 expected keys and values, got a list"),
        ("text", "1:1 expected keys and values, got the text 'text'"),
        ("a: 1\n---\nb: 2\n", "2:1 not YAML: but found another document"),
        ("a: \x00", "1:4 a character that YAML does not allow"),
        ("a: " + "[" * 1000, "nested too deeply"),
        ("a: " + "x" * 70_000, "more than 65536 characters"),
        ("a: 1" + "0" * 5000, "YAML cannot read"),
    ],
)
def test_a_file_that_is_no_mapping(text: str, expected: str) -> None:
    (problem,) = problems(text)
    assert expected in problem


@pytest.mark.parametrize("name", ["My Model", "Fraud", "1st", "a" * 64, ".hidden"])
def test_the_name_of_the_file_must_do_for_a_dag_and_a_service(name: str) -> None:
    (problem,) = problems(LEAST, name)
    assert "rename it" in problem


def test_every_key_of_the_schema_is_closed_and_described() -> None:
    def walk(part: dict[str, Any], path: str) -> None:
        assert part.get("description"), path
        if "properties" in part:
            assert part["additionalProperties"] is False, path
            for key, sub in part["properties"].items():
                walk(sub, f"{path}.{key}")

    walk(schema(), "")


def test_numbers_of_the_schema_have_both_bounds() -> None:
    def walk(part: dict[str, Any], path: str) -> None:
        types = part.get("type", [])
        if {"integer", "number"} & set([types] if isinstance(types, str) else types):
            assert {"minimum", "exclusiveMinimum"} & set(part) and "maximum" in part, path
        for key, sub in part.get("properties", {}).items():
            walk(sub, f"{path}.{key}")

    walk(schema(), "")


def test_a_platform_without_gpus_says_so(platform: Platform) -> None:
    with pytest.raises(DocumentError, match="choose one of: none, or add it to `gpuPools`"):
        parse_spec(LEAST, "churn", replace(platform, pools={}))
    cpu = parse_spec(LEAST.replace("pool: ondemand", "pool: null"), "churn", replace(platform, pools={}))
    assert cpu.train.pool is None


def pools(platform: Platform, *names: str, spot: str = "") -> Platform:
    """The platform with other pools; the default pool is the first, as the chart has it."""
    one = platform.pools["ondemand"]
    known = {name: replace(one, name=name, spot=name == spot) for name in names}
    default = names[0] if names else None
    return replace(platform, pools=known, default_pool=default, default_spot_pool=spot or default)


@pytest.mark.parametrize(
    ("train", "names", "spot", "expected"),
    [
        ("{}", ["a100"], "", "a100"),
        ("{pool: default}", ["100", "4090"], "", "100"),
        ("{pool: 4090}", ["100", "4090"], "", "4090"),
        ("{pool: default-spot}", ["100", "4090"], "4090", "4090"),
        ("{pool: default-spot}", ["a100"], "", "a100"),
        ("{pool: default}", ["a100", "default"], "", "default"),
        ("{}", [], "", None),
        ("{pool: default-spot, escalate_to: default, fallback: cpu, gpus: 2}", [], "", None),
        ("{pool: null}", ["a100"], "", None),
    ],
)
def test_a_pool_is_named_by_a_word_or_its_name(
    platform: Platform, train: str, names: list[str], spot: str, expected: str | None
) -> None:
    text = LEAST.replace("{pool: ondemand}", train)
    found = parse_spec(text, "churn", pools(platform, *names, spot=spot)).train
    assert found.pool == expected
    if expected is None:
        assert (found.gpus, found.fallback, found.escalate_to) == (1, None, None)


def test_what_is_resumed_elsewhere_goes_to_the_default_pool(platform: Platform) -> None:
    text = LEAST.replace("{pool: ondemand}", "{pool: default-spot, escalate_to: default}")
    train = parse_spec(text, "churn", platform).train
    assert (train.pool, train.escalate_to) == ("spot", "ondemand")


def limits_of(key: Mapping[str, Any]) -> tuple[Any, ...]:
    if key["type"] in ("integer", "number"):
        return key["minimum"], key["maximum"]
    return tuple(key.get("enum", (key["type"],)))


def limits_in_trainer(param: Any) -> tuple[Any, ...]:
    if isinstance(param.default, bool):
        return ("boolean",)
    return param.choices if isinstance(param.default, str) else (param.low, param.high)


def test_the_schema_has_the_bounds_of_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "images/trainer/src"))
    from trainyard_trainer.params import COMMON

    split = schema()["properties"]["split"]["properties"]
    repeated = COMMON["max_repeated"]
    assert (split["max_repeated"]["minimum"], split["max_repeated"]["maximum"]) == (
        repeated.low,
        repeated.high,
    )
    assert ("", *split["by"]["enum"], "none") == COMMON["split"].choices
    known = schema()["properties"]["train"]["properties"]["params"]["properties"]
    for name in known.keys() & COMMON.keys():
        assert limits_of(known[name]) == limits_in_trainer(COMMON[name]), name
    # The others are a model's own, which only numpy and torch can load.
    assert known.keys() - COMMON.keys() == {
        *("hidden", "width", "layers", "heads"),
        *("dropout", "weight_decay"),
    }
