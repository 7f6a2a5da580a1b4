"""The chart's values files, and what helm makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from . import paths
from .errors import CliError
from .names import NAMESPACE, RELEASE
from .shell import run

Json = dict[str, Any]

CHART_PATH = "charts/trainyard"
CHART = paths.ROOT / CHART_PATH
KIND_VALUES_PATH = "values/kind.yaml"
KIND_VALUES = paths.ROOT / KIND_VALUES_PATH
VALUES = (CHART / "values.yaml", KIND_VALUES)
# What a chart's revision brings: the chart, and the values files that valueFiles may name.
SOURCES = [CHART_PATH, "values"]
HELM_SECONDS = 300
SHOWN_LINES = 12


def helm(
    program: Path,
    command: str,
    values: Iterable[Path],
    options: Sequence[str] = (),
    *,
    root: Path = paths.ROOT,
) -> str:
    """Run a helm command on the chart with values/kind.yaml and ``values``; return what it prints.

    ``root`` holds both: the checkout, or what a commit of it has. Raises CliError with helm's words, which
    name the wrong key.
    """
    given = list(values)
    files = [root / KIND_VALUES_PATH, *given]
    words: list[str | Path] = [program, command, RELEASE, root / CHART_PATH, f"--namespace={NAMESPACE}"]
    result = run(
        [*words, *options, *(f"--values={file}" for file in files)],
        check=False,
        timeout=HELM_SECONDS,
    )
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line and not line.startswith("WARNING")]
        message = "\n  ".join([f"helm {command} refuses the chart or its values:", *lines[-SHOWN_LINES:]])
        written = (KIND_VALUES, *(file for file in given if file.parent != paths.STATE))
        cure = f"correct {' or '.join(map(str, written))}"
        raise CliError(message, f"{cure}, then run the command again")
    return result.stdout


def after_error(text: str) -> str:
    """Return what follows the last `Error:` of helm's message, or all of it; Argo CD passes it on as well."""
    _, found, after = text.rpartition("Error: ")
    return (after if found else text).strip()


def gpu_pools(program: Path, values: Iterable[Path]) -> dict[str, Json]:
    """Return the GPU pools by name, as the chart's platform.json has them; CliError for wrong values."""
    pools: dict[str, Json] = platform_file(program, values)["pools"]
    return pools


def platform_file(program: Path, values: Iterable[Path]) -> Json:
    """Return the chart's platform.json, which the DAG library reads; CliError for wrong values."""
    manifests = helm(program, "template", values, ["--show-only=templates/platform-configmap.yaml"])
    config_map = next(yaml.safe_load_all(manifests))
    platform: Json = json.loads(config_map["data"]["platform.json"])
    return platform


def read_values(files: Iterable[Path], *, keep_null: bool = False) -> Json:
    """Return the values files merged as Helm does it, the last one winning; ``keep_null`` as in merge."""
    merged: Json = {}
    for file in files:
        try:
            values = yaml.safe_load(file.read_text())
        except FileNotFoundError as error:
            raise CliError(f"{file} is missing", "restore it from git") from error
        except yaml.YAMLError as error:
            raise CliError(f"{file} is not YAML: {error}", "correct the place that is named") from error
        if values is None:
            continue
        if not isinstance(values, dict):
            raise CliError(f"{file} holds no keys and values", "write it like charts/trainyard/values.yaml")
        merged = merge(merged, values, keep_null=keep_null)
    return merged


def merge(base: Json, overlay: Json, *, keep_null: bool = False) -> Json:
    """Return ``base`` overlaid: mappings merge, null removes a key, everything else replaces.

    ``keep_null`` leaves null in the result, which itself overlays something.
    """
    result = dict(base)
    for key, value in overlay.items():
        if value is None and not keep_null:
            result.pop(key, None)
        elif isinstance(value, dict):
            below = result.get(key)
            result[key] = merge(below if isinstance(below, dict) else {}, value, keep_null=keep_null)
        else:
            result[key] = value
    return result
