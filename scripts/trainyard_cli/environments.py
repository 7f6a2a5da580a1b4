"""The environments of values/environments: their files, and what is wrong with them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from . import paths
from .errors import CliError
from .git import Repository, Tree

if TYPE_CHECKING:
    from jsonschema import ValidationError

Json = dict[str, Any]

DIRECTORY = "values/environments"
SCHEMA = paths.ROOT / DIRECTORY / "environment.schema.json"
PLACEHOLDER = "sha256:" + "0" * 64
IMAGE_FIELDS = ("repository", "tag", "digest")


@dataclass(frozen=True)
class Environment:
    """One directory of values/environments; see environment.schema.json for the fields."""

    name: str
    server: str
    namespace: str
    release: str
    revision: str
    value_files: tuple[str, ...]
    images: Json
    values: Json
    promoted_from: str | None = None

    @property
    def file(self) -> str:
        """The path of its environment.yaml."""
        return file(self.name)

    @property
    def values_file(self) -> str:
        """The path of its values.yaml."""
        return values_file(self.name)


def directory(name: str) -> str:
    """Return the path of an environment's directory."""
    return f"{DIRECTORY}/{name}"


def file(name: str) -> str:
    """Return the path of an environment's environment.yaml."""
    return f"{directory(name)}/environment.yaml"


def values_file(name: str) -> str:
    """Return the path of an environment's values.yaml."""
    return f"{directory(name)}/values.yaml"


# ---- reading


def names(*trees: Tree) -> list[str]:
    """Return the names of the environments that any of the trees has."""
    return sorted({name for tree in trees for name in tree.directories(DIRECTORY) if exists(tree, name)})


def exists(tree: Tree, name: str) -> bool:
    """Tell whether there is such an environment."""
    return tree.read(file(name)) is not None


def check_exists(name: str, *trees: Tree) -> None:
    """Raise CliError where none of the trees has such an environment."""
    if not any(exists(tree, name) for tree in trees):
        raise _missing(name, *trees)


def _missing(name: str, *trees: Tree) -> CliError:
    known = names(*trees)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    places = " or ".join(tree.name for tree in trees)
    cure = f"{hint}the environments: {', '.join(known) or 'none'}"
    return CliError(f"there is no environment {name} in {places}", cure)


def read(repository: Repository, tree: Tree, name: str) -> Environment:
    """Return an environment; CliError with everything that is wrong with its files."""
    text = tree.read(file(name))
    if text is None:
        raise _missing(name, tree)
    fields = _checked(name, text)
    environment = Environment(
        name=name,
        server=fields["server"],
        namespace=fields["namespace"],
        release=fields["release"],
        revision=fields["revision"],
        value_files=tuple(fields["valueFiles"]),
        images=fields["images"],
        values=_mapping(values_file(name), tree.read(values_file(name)) or ""),
        promoted_from=fields.get("promotedFrom"),
    )
    if environment.promoted_from is not None:
        _refuse_unpinned(environment, repository)
    return environment


def _checked(name: str, text: str) -> Json:
    """Return the fields of an environment.yaml that agrees with the schema."""
    content = _mapping(file(name), text)
    error = _error(content)
    if error is not None:
        raise CliError(*_explain(file(name), error))
    fields: Json = content["environment"]
    return fields


def _mapping(path: str, text: str) -> Json:
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise CliError(f"{path} is not YAML: {error}", "correct the place that is named") from error
    if not isinstance(content, dict):
        raise CliError(f"{path} holds no keys and values", "write it like those of the other environments")
    return content


def _error(content: Json) -> ValidationError | None:
    """Return what the schema refuses first."""
    # It takes as long to import as most commands take in all, and few of them read an environment.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    return best_match(Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors(content))


def _explain(path: str, error: ValidationError) -> tuple[str, str]:
    """Return message and cure for what the schema refuses; the key is named in full."""
    schema: Any = error.schema
    wanted: Any = error.validator_value
    instance: Any = error.instance
    key = ".".join(map(str, error.absolute_path))
    if error.validator == "additionalProperties":
        known = list(schema["properties"])
        unknown = str(next(each for each in instance if each not in known))
        close = difflib.get_close_matches(unknown, known, n=1)
        hint = f"did you mean {close[0]}? " if close else "remove it; "
        return f"{path}: unknown key {_below(key, unknown)}", f"{hint}keys: {', '.join(known)}"
    if error.validator == "required":
        missing = next(each for each in wanted if each not in instance)
        described = schema["properties"][missing].get("description", "see docs/environments.md")
        return f"{path}: {_below(key, missing)} is missing", f"write it: {described}"
    if error.validator == "anyOf":
        return f"{path}: {key} has neither a tag nor a digest", "write the digest that the registry tells"
    meaning = schema.get("description")
    return f"{path}: {key}: {error.message}", f"write {meaning}" if meaning else "see docs/environments.md"


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


# ---- pins


def images(tree: Json, key: str = "") -> Iterator[tuple[str, Json]]:
    """Yield the images of values with their keys, e.g. mlflow.image."""
    if any(each in tree for each in IMAGE_FIELDS):
        yield key, tree
        return
    for name, below in tree.items():
        yield from images(below, _below(key, name))


def without_digest(environment: Environment) -> list[str]:
    """Return the keys of its images that have no digest."""
    return [key for key, image in images(environment.images) if "digest" not in image]


def placeholders(environment: Environment) -> list[str]:
    """Return the keys of its images whose digest is a placeholder."""
    return [key for key, image in images(environment.images) if image.get("digest") == PLACEHOLDER]


def _refuse_unpinned(environment: Environment, repository: Repository) -> None:
    """Refuse what may change without a commit: it was promoted for what it was."""
    missing = without_digest(environment)
    if missing:
        keys = ", ".join(f"environment.images.{key}.digest" for key in missing)
        cure = f"./scripts/promote {environment.promoted_from} {environment.name} writes them"
        raise CliError(f"{environment.file}: missing: {keys}", cure)
    if not repository.is_exact(environment.revision):
        message = (
            f"{environment.file}: environment.revision: {environment.revision} is neither a commit nor a tag"
        )
        cure = "name the whole commit (40 hex digits) or a tag of this clone (git fetch --tags)"
        raise CliError(message, cure)
