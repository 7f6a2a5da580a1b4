"""What is known about the packages: vulnerabilities of what is locked, licences of what is in the images."""

from __future__ import annotations

import fnmatch
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from . import paths
from .errors import CliError
from .shell import run
from .stages import Stages

Json = dict[str, Any]

POLICY = paths.ROOT / "images/licences.yaml"
KINDS = {"pypi": "Python", "golang": "Go", "deb": "Debian"}
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Component:
    """A package in an image. ``kind`` is that of its package URL: pypi, golang, deb."""

    kind: str
    name: str
    version: str
    licences: tuple[str, ...]


# ---- vulnerabilities


def locks() -> list[Path]:
    """Return every file that locks Python packages."""
    found = [*paths.ROOT.glob("images/*/*.txt"), *paths.ROOT.glob("scripts/*.txt")]
    return sorted(file for file in found if "--hash=sha256:" in file.read_text())


def vulnerabilities(stages: Stages, files: Iterable[Path], out: Console) -> int:
    """Show the known vulnerabilities of the locked packages, file by file; return how many there are.

    Raises CliError where the service that knows them does not answer.
    """
    table = Table("lock file", "package", "version", "vulnerability", "fixed in", box=None, pad_edge=False)
    unchecked: set[str] = set()
    with stages("vulnerabilities") as stage:
        for file in files:
            name = str(file.relative_to(paths.ROOT) if file.is_relative_to(paths.ROOT) else file)
            stage.update(f"checking {name}")
            for package in audited(file):
                if "skip_reason" in package:
                    unchecked.add(package["name"])
                for each in package.get("vulns", []):
                    fixed = ", ".join(each["fix_versions"]) or "-"
                    table.add_row(name, package["name"], package["version"], each["id"], fixed)
    if unchecked:
        out.print(f"not known to the service, so not checked: {', '.join(sorted(unchecked))}", markup=False)
    out.print(table if table.row_count else "no known vulnerabilities")
    return table.row_count


def audited(file: Path) -> list[Json]:
    """Return what pip-audit says about each package of a lock file."""
    command: list[str | Path] = [
        paths.ROOT / "scripts/_python",
        "--dev",
        "pip-audit",
        f"--requirement={file}",
    ]
    # Exactly what is locked: nothing is resolved, so pip has nothing to do.
    command += ["--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off"]
    result = run([*command, f"--cache-dir={paths.HOME / 'pip-audit'}"], check=False)
    try:
        packages: list[Json] = json.loads(result.stdout)["dependencies"]
    except ValueError:
        raise _unreachable((result.stderr.strip().splitlines() or ["no answer"])[-1]) from None
    # A mirror of PyPI's packages has no vulnerabilities: pip-audit then skips all, and calls that well.
    if packages and all("skip_reason" in package for package in packages):
        raise _unreachable(packages[0]["skip_reason"])
    return packages


def _unreachable(why: str) -> CliError:
    return CliError(
        f"the vulnerability service could not be asked, so nothing was checked: {why}",
        "run it where pypi.org answers, or name another service in PIP_AUDIT_VULNERABILITY_SERVICE=osv and "
        "PIP_AUDIT_OSV_URL",
    )


# ---- licences


def components(files: Iterable[Path]) -> set[Component]:
    """Return the packages in CycloneDX files."""
    return {each for file in files for each in _components(json.loads(file.read_text()))}


def _components(document: Json) -> Iterator[Component]:
    for each in document.get("components", []):
        kind = each.get("purl", "").removeprefix("pkg:").partition("/")[0]
        if kind in KINDS:
            # A text that is no known licence, such as a list of authors, is told by its hash.
            licences = tuple(sorted({word for word in _licences(each) if not word.startswith("sha256:")}))
            licences = licences or (UNKNOWN,)
            yield Component(kind, each["name"], each.get("version", ""), licences)


def _licences(component: Json) -> Iterator[str]:
    for each in component.get("licenses", []):
        licence = each.get("license", {})
        word = each.get("expression") or licence.get("id") or licence.get("name") or UNKNOWN
        yield UNKNOWN if word.lower() == UNKNOWN else word


def to_look_at(found: Iterable[Component], policy: Mapping[str, Any]) -> dict[Component, str]:
    """Return the components whose licence needs a look, with the licence: those that nobody has looked at."""
    result = {}
    for component in found:
        if any(fnmatch.fnmatchcase(component.name, name) for name in policy["looked_at"][component.kind]):
            continue
        patterns = policy["review"][component.kind]
        for licence in component.licences:
            if any(fnmatch.fnmatchcase(licence, pattern) for pattern in patterns):
                result[component] = licence
    return result


def read_policy() -> Json:
    """Return images/licences.yaml."""
    policy: Json = yaml.safe_load(POLICY.read_text())
    return policy


def licences(files: Iterable[Path], out: Console) -> int:
    """Show how many packages have which licence, and those that need a look; return how many these are."""
    found = components(files)
    if not found:
        raise CliError("the SBOMs name no packages", "./scripts/sbom writes them again")
    out.print(_overview(found))
    pending = to_look_at(found, read_policy())
    if pending:
        table = Table("needs a look", box=None, pad_edge=False)
        table.add_column("package", overflow="fold")
        table.add_column("version")
        table.add_column("licence", overflow="fold")
        for each in sorted(pending, key=lambda one: (one.kind, one.name)):
            table.add_row(KINDS[each.kind], each.name, each.version, pending[each])
        out.print(table)
    return len(pending)


def _overview(found: Iterable[Component]) -> Table:
    counts: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for component in found:
        for licence in component.licences:  # a package with several is counted with each
            counts[licence][component.kind] += 1
    table = Table("licence", box=None, pad_edge=False)
    for kind in KINDS.values():
        table.add_column(kind, justify="right")
    for licence, by_kind in sorted(counts.items(), key=lambda item: (-sum(item[1].values()), item[0])):
        table.add_row(licence, *(str(by_kind[kind] or "") for kind in KINDS))
    return table
