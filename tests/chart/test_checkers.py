"""kube-score and checkov on what the chart makes; what they may find has its reason in waivers.yaml."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from made import made_at_run_time
from render import ROOT, identity, render_chart

WAIVERS = yaml.safe_load((Path(__file__).parent / "waivers.yaml").read_text())
# Those of kind are never pulled: its images are loaded.
FILES = [
    (),
    ("production.yaml",),
    ("production.yaml", "dags-from-git.yaml"),
    ("production.yaml", "backup.yaml"),
    ("production.yaml", "pgbouncer.yaml"),
    ("production.yaml", "statsd.yaml"),
    ("production.yaml", "object-storage.yaml", "closed-network.yaml"),
]
CRITICAL = 1


@dataclass(frozen=True)
class Finding:
    """What a checker does not like: the check's id or text, and the object's kind and name without a hash."""

    check: str
    object: str


def manifests(files: tuple[str, ...], directory: Path) -> Path:
    """Everything that runs: the render, and what Airflow and the DAG library make."""
    objects = render_chart(files=files)
    file = directory / "objects.yaml"
    file.write_text(yaml.safe_dump_all([*objects, *made_at_run_time(objects, directory).values()]))
    return file


def kube_score(file: Path) -> Iterable[Finding]:
    """The criticals of kube-score, whose annotations for exceptions do not count."""
    command = ["kube-score", "score", "--output-format", "json", "--disable-ignore-checks-annotations"]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True)
    for one in json.loads(done.stdout):
        kind, name = one["type_meta"]["kind"], one["object_meta"]["name"]
        for check in one["checks"]:
            if check["grade"] == CRITICAL and not check["skipped"]:
                for comment in check["comments"]:
                    yield finding(comment["summary"], kind, name)


def checkov(file: Path) -> Iterable[Finding]:
    """What fails in checkov."""
    command = [ROOT / "scripts/_python", "--checkov", "checkov", "--file", file, "--framework", "kubernetes"]
    command += ["--skip-download", "--quiet", "--compact", "--output", "json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    result = json.loads(done.stdout)
    assert not result["summary"]["parsing_errors"], done.stderr
    for one in result["results"]["failed_checks"]:
        kind, _, name = one["resource"].split(".")[:3]
        yield finding(one["check_id"], kind, name)


def finding(check: str, kind: str, name: str) -> Finding:
    """A finding, with the object's name without a hash."""
    return Finding(check, " ".join(identity({"kind": kind, "metadata": {"name": name}})))


CHECKERS: dict[str, Callable[[Path], Iterable[Finding]]] = {"kube-score": kube_score, "checkov": checkov}


def is_waived(one: Finding, waiver: dict[str, str]) -> bool:
    """Whether the waiver is for this finding."""
    return bool(re.fullmatch(waiver["check"], one.check) and re.fullmatch(waiver["object"], one.object))


@pytest.mark.parametrize(
    "checker", ["kube-score", pytest.param("checkov", marks=pytest.mark.nightly)], ids=str
)
def test_nothing_is_found_but_what_has_a_reason(checker: str, tmp_path: Path) -> None:
    found = {one for files in FILES for one in CHECKERS[checker](manifests(files, tmp_path))}
    waivers = WAIVERS[checker]
    waived = [{one for one in found if is_waived(one, waiver)} for waiver in waivers]
    assert found - set().union(*waived) == set()
    assert [waiver for waiver, those in zip(waivers, waived, strict=True) if not those] == []


@pytest.mark.parametrize("checker", WAIVERS)
def test_every_waiver_has_a_reason(checker: str) -> None:
    for waiver in WAIVERS[checker]:
        assert waiver.keys() == {"check", "object", "reason"} and waiver["reason"].endswith(".")
