"""The platform file: what is wrong with it is said by key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import PLATFORM_FILE
from trainyard.platform import PlatformError, load_platform


def damaged(tmp_path: Path, path: str, value: Any) -> Path:
    data = json.loads(PLATFORM_FILE.read_text())
    *parents, key = path.split(".")
    place = data
    for parent in parents:
        place = place[parent]
    place.pop(key) if value is None else place.update({key: value})
    file = tmp_path / "platform.json"
    file.write_text(json.dumps(data))
    return file


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("training", None, "training is missing"),
        ("training.image", None, "training.image is missing"),
        ("training.image", 3, "training.image: expected str, got 3"),
        ("training.gpuDevice", "tpu", "gpuDevice: expected 'cpu' or 'cuda'"),
        ("training.checkpointFreq", True, "checkpointFreq: expected int"),
        ("pools.spot.tolerations", {}, "pools.spot.tolerations: expected list"),
        ("pools.spot", [], "pools.spot: expected dict"),
        ("training.defaultPool", "a100", r"defaultPool: no GPU pool 'a100' \(there are: ondemand, spot\)"),
        ("training.defaultSpotPool", 7, "defaultSpotPool: expected str, got 7"),
        ("training.volumes.models", {"claimName": "m"}, "volumes.models.mountPath is missing"),
        ("teams", [], "teams: expected dict"),
        ("teams", {"vision": "ml-vision"}, "teams.vision: expected dict, got 'ml-vision'"),
        (
            "teams",
            {"vision": {"dags": []}},
            "teams.vision.namespace is missing; the chart and the DAG library",
        ),
        ("teams", {"vision": {"namespace": "v"}}, "teams.vision.dags is missing"),
        ("teams", {"vision": {"namespace": "v", "dags": "a"}}, "teams.vision.dags: expected list, got 'a'"),
        ("teams", {"vision": {"namespace": "v", "dags": ["a", 3]}}, "teams.vision.dags: .*, got 3"),
        ("teams", {"vision": {"namespace": "v", "dags": ["a*b"]}}, r"with one `\*` at the end, got 'a\*b'"),
        ("teams", {"vision": {"namespace": "v", "dags": [""]}}, "teams.vision.dags: .*, got ''"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, path: str, value: Any, message: str) -> None:
    with pytest.raises(PlatformError, match=message):
        load_platform(damaged(tmp_path, path, value))


def test_a_missing_file_names_the_cure(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="set TRAINYARD_PLATFORM"):
        load_platform(tmp_path / "none.json")


def test_broken_json_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "platform.json"
    file.write_text("{")
    with pytest.raises(PlatformError, match=r"platform.json is not JSON"):
        load_platform(file)


@pytest.mark.parametrize(
    ("pools", "given", "expected"),
    [
        ({"b": False, "a": False}, {}, ("a", "a")),
        ({"b": True, "c": False, "a": True}, {}, ("c", "a")),
        ({"b": True}, {}, ("b", "b")),
        ({}, {}, (None, None)),
        ({}, {"defaultPool": None, "defaultSpotPool": None}, (None, None)),
        ({"a": False, "b": False, "c": True, "d": True}, {"defaultPool": "b"}, ("b", "c")),
        ({"a": False, "c": True, "d": True}, {"defaultSpotPool": "d"}, ("a", "d")),
    ],
)
def test_the_default_pools_are_those_of_the_file_or_the_first(
    tmp_path: Path, pools: dict[str, bool], given: dict[str, Any], expected: tuple[str | None, str | None]
) -> None:
    data = json.loads(PLATFORM_FILE.read_text())
    one = data["pools"]["ondemand"]
    data["pools"] = {name: {**one, "spot": spot} for name, spot in pools.items()}
    for key in ("defaultPool", "defaultSpotPool"):
        data["training"].pop(key, None)
    data["training"] |= given
    (tmp_path / "platform.json").write_text(json.dumps(data))
    platform = load_platform(tmp_path / "platform.json")
    assert (platform.default_pool, platform.default_spot_pool) == expected


def test_volumes_have_uris_and_there_may_be_more(tmp_path: Path) -> None:
    more = {"claimName": "m", "mountPath": "/models/"}
    training = load_platform(damaged(tmp_path, "training.volumes.models", more)).training
    assert training.datasets.uri == "file:///data"
    assert training.more_volumes["models"].uri == "file:///models"


TEAMS = {
    "vision": {"namespace": "ml-vision", "dags": ["digits_training", "vision_*", "main*"]},
    "risk": {"namespace": "ml-risk", "dags": ["fraud_*"]},
}


@pytest.mark.parametrize(
    ("dag_id", "team", "namespace"),
    [
        ("digits_training", "vision", "ml-vision"),
        ("digits_training_2", None, "ml-training"),
        ("digits", None, "ml-training"),
        ("vision_", "vision", "ml-vision"),
        ("vision_a", "vision", "ml-vision"),
        ("vision", None, "ml-training"),
        ("a_vision_a", None, "ml-training"),
        ("fraud_detection", "risk", "ml-risk"),
        ("maintenance-risk", "risk", "ml-risk"),
        ("maintenance", None, "ml-training"),
    ],
)
def test_the_platform_says_which_team_a_dag_is_of(
    tmp_path: Path, dag_id: str, team: str | None, namespace: str
) -> None:
    platform = load_platform(damaged(tmp_path, "teams", TEAMS))
    found = platform.team_of(dag_id)
    assert (found.name if found else None) == team
    seen = platform.for_dag(dag_id)
    assert seen.training.namespace == namespace
    assert replace(seen, training=platform.training) == platform, "nothing else differs"
    assert (seen is platform) is (team is None)
    assert platform.training.namespace == "ml-training"


def test_one_star_is_every_dag(tmp_path: Path) -> None:
    one = {"all": {"namespace": "ml-all", "dags": ["*"]}}
    assert load_platform(damaged(tmp_path, "teams", one)).for_dag("any").training.namespace == "ml-all"


def test_each_namespace_of_training_is_named_once(tmp_path: Path) -> None:
    more = {**TEAMS, "again": {"namespace": "ml-vision", "dags": []}}
    more["first"] = {"namespace": "ml-training", "dags": []}
    platform = load_platform(damaged(tmp_path, "teams", more))
    assert platform.training_namespaces == ("ml-training", "ml-vision", "ml-risk")


@pytest.mark.parametrize("teams", [None, {}])
def test_without_teams_all_train_in_one_namespace(tmp_path: Path, teams: dict[str, Any] | None) -> None:
    data = {key: each for key, each in json.loads(PLATFORM_FILE.read_text()).items() if key != "teams"}
    file = tmp_path / "platform.json"
    file.write_text(json.dumps(data if teams is None else {**data, "teams": teams}))
    platform = load_platform(file)
    assert platform.teams == {}
    assert platform.training_namespaces == ("ml-training",)
    assert platform.for_dag("digits_training") is platform
