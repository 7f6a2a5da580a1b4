"""The platform file: what is wrong with it is said by key."""

from __future__ import annotations

import json
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
