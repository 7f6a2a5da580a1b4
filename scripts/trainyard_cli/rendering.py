"""Renders an environment as Argo CD would: the chart at its revision, with the environment's own files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from .chart import CHART_PATH, SOURCES, after_error
from .environments import Environment
from .errors import CliError
from .git import Repository, Tree
from .shell import run
from .versions import VERSIONS

Json = dict[str, Any]

HELM_SECONDS = 120


class Renderer:
    """Renders with one helm; revisions that were extracted are kept until it is closed."""

    def __init__(self, helm: Path, repository: Repository, scratch: Path) -> None:
        self.repository = repository
        self._helm = helm
        self._scratch = scratch

    def chart_tree(self, environment: Environment, tree: Tree) -> Tree:
        """Return where the chart comes from, for an environment that was read from ``tree``.

        A commit or tag is taken at its word. A branch is what ``tree`` becomes when it is merged.
        """
        exact = self.repository.is_exact(environment.revision)
        return self.repository.tree(environment.revision) if exact else tree

    def objects(self, environment: Environment, tree: Tree) -> list[Json]:
        """Return the objects of an environment that was read from ``tree``; CliError with helm's words."""
        source = self.chart_tree(environment, tree)
        root = source.extract(SOURCES, self._scratch)
        own = self._scratch / f"{environment.name}-values.yaml"
        own.write_text(yaml.safe_dump(environment.values))
        images = self._scratch / f"{environment.name}-images.yaml"
        images.write_text(yaml.safe_dump(environment.images))
        files = [*(_value_file(environment, root, each) for each in environment.value_files), own, images]
        command: list[str | Path] = [
            self._helm,
            "template",
            environment.release,
            root / CHART_PATH,
            "--include-crds",
        ]
        command += [f"--namespace={environment.namespace}", f"--kube-version={VERSIONS.kubernetes}"]
        done = run([*command, *(f"--values={each}" for each in files)], check=False, timeout=HELM_SECONDS)
        if done.returncode:
            where = f"{environment.name} does not render with the chart of {source.name}"
            cure = f"correct {environment.values_file}, or the images in {environment.file}"
            raise CliError(f"{where}:\n  {after_error(done.stderr)}", cure)
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return [each for each in yaml.load_all(done.stdout, loader) if each]


@contextmanager
def renderer(helm: Path, repository: Repository) -> Iterator[Renderer]:
    """Give a renderer whose files are removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="trainyard-") as scratch:
        yield Renderer(helm, repository, Path(scratch))


def _value_file(environment: Environment, root: Path, name: str) -> Path:
    path = (root / CHART_PATH / name).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        message = (
            f"{environment.file}: environment.valueFiles: {name} is not at revision {environment.revision}"
        )
        raise CliError(message, f"name a values file of the repository, relative to {CHART_PATH}")
    return path


def image_references(objects: list[Json]) -> set[str]:
    """Return every image that the objects name, in pods or in the platform file."""
    return set(_images(objects))


def _images(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, below in value.items():
            if key == "image" and isinstance(below, str):
                yield below
            elif isinstance(below, str) and key.endswith((".json", ".yaml")):
                yield from _images(_loaded(below))
            else:
                yield from _images(below)
    elif isinstance(value, list):
        for each in value:
            yield from _images(each)


def _loaded(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None
