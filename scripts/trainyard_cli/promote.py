"""Promotes what one environment runs to another, as one commit on a branch of its own."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import diff, environments
from .environments import Environment
from .errors import CliError
from .git import Repository, short
from .pins import pinned
from .rendering import image_references, renderer

SHOWN_COMMITS = 50


@dataclass(frozen=True)
class Promotion:
    """What a promotion writes, and what that changes in the cluster."""

    before: Environment
    after: Environment
    text: str
    message: str
    changes: diff.Result
    warnings: list[str]

    @property
    def branch(self) -> str:
        """The branch's name where none is given; the same promotion has the same name."""
        return f"promote/{self.after.name}-{hashlib.sha256(self.text.encode()).hexdigest()[:8]}"


def prepare(
    helm: Path, repository: Repository, source: str, target: str, revision: str | None = None
) -> Promotion | None:
    """Return what promotes ``source`` to ``target``, as HEAD has them; None where nothing changes.

    CliError for what may not be promoted, and for a target that would not render any more.
    """
    if source == target:
        raise CliError(
            f"{source} cannot be promoted to itself", "./scripts/promote FROM TO takes two environments"
        )
    head = repository.tree("HEAD")
    before = environments.read(repository, head, target)
    giver = environments.read(repository, head, source)
    _check_order(giver, before)
    _check_committed(repository, giver, before)
    _check_images(giver)
    chosen = _exact(repository, revision, giver.revision)
    after = dataclasses.replace(before, revision=chosen, images=giver.images)
    if after == before:
        return None
    with renderer(helm, repository) as rendered:
        new = rendered.objects(after, head)
        _check_rendered(after, image_references(new))
        try:
            changes = diff.Result(target, diff.compare(rendered.objects(before, head), new), chart=chosen)
        except CliError as error:
            changes = diff.Result(target, error=f"before: {error}")
    text = head.read(before.file)
    assert text is not None, "it was read above"
    return Promotion(
        before=before,
        after=after,
        text=pinned(text, giver.images, chosen),
        message="\n".join(_message(repository, giver, before, after)),
        changes=changes,
        warnings=_warnings(repository, chosen),
    )


def commit(repository: Repository, promotion: Promotion, branch: str | None = None) -> tuple[str, str]:
    """Make the branch with the commit; return the branch's name and the commit."""
    name = branch or promotion.branch
    return name, repository.add_commit(name, {promotion.after.file: promotion.text}, promotion.message)


# ---- what may not be promoted


def _check_order(source: Environment, target: Environment) -> None:
    if target.promoted_from is None:
        message = f"{target.name} takes no promotions: {target.file} has no environment.promotedFrom"
        raise CliError(
            message, f"write promotedFrom: {source.name} there if it shall run what {source.name} ran"
        )
    if target.promoted_from != source.name:
        step = f"./scripts/promote {target.promoted_from} {target.name}"
        cure = f"promote {source.name} to {target.promoted_from} first, then {step}"
        raise CliError(
            f"{target.name} is promoted from {target.promoted_from}, not from {source.name} ({target.file})",
            cure,
        )


def _check_committed(repository: Repository, *involved: Environment) -> None:
    changed = repository.changed(*(environments.directory(each.name) for each in involved))
    if changed:
        files = ", ".join(line[3:] for line in changed)
        raise CliError(f"not committed: {files}", "commit or stash it: what HEAD has is promoted")


def _check_images(source: Environment) -> None:
    problems = [f"{key}.digest is missing" for key in environments.without_digest(source)]
    problems += [f"{key}.digest is a placeholder" for key in environments.placeholders(source)]
    if problems:
        lines = "".join(f"\n  environment.images.{each}" for each in problems)
        cure = "push the images and write the digests that the registry tells, sha256: and 64 hex digits"
        raise CliError(f"{source.file}:{lines}", cure)


def _check_rendered(target: Environment, references: set[str]) -> None:
    loose = sorted(each for each in references if "@sha256:" not in each)
    if loose:
        message = f"{target.name} would run images without a digest: {', '.join(loose)}"
        cure = f"name their keys under environment.images in {environments.file(target.promoted_from or '')}"
        raise CliError(message, cure)


def _exact(repository: Repository, asked: str | None, given: str) -> str:
    """Return the commit that a branch is at; a commit or tag is itself.

    The environment's branch is that of the remote, which Argo CD reads; somebody who asks means this clone.
    """
    revision = asked or given
    if repository.is_exact(revision):
        repository.commit(revision)
        return revision
    return repository.commit(asked) if asked else repository.pushed_commit(given)


def _warnings(repository: Repository, revision: str) -> list[str]:
    if repository.is_pushed(repository.commit(revision)):
        return []
    return [f"{short(revision)} is on no branch of a remote: push it, or Argo CD will not find it"]


# ---- the commit's message


def _message(
    repository: Repository, source: Environment, before: Environment, after: Environment
) -> Iterator[str]:
    yield f"Promote {source.name} to {after.name}"
    if before.revision != after.revision:
        yield from ("", f"Chart: {short(before.revision)} -> {short(after.revision)}")
        yield from _commits(repository, before.revision, after.revision)
    images = list(_changed_images(before, after))
    if images:
        yield from ("", "Images:", *images)


def _commits(repository: Repository, old: str, new: str) -> Iterator[str]:
    try:
        first, second = repository.commit(old), repository.commit(new)
    except CliError:
        yield f"({short(old)} is not in this clone: its commits cannot be compared)"
        return
    yield from _limited("  ", repository.subjects(first, second))
    gone = repository.subjects(second, first)
    if gone:
        yield "Not in it any more:"
        yield from _limited("  ", gone)


def _limited(indent: str, lines: list[str]) -> Iterator[str]:
    yield from (f"{indent}{line}" for line in lines[:SHOWN_COMMITS])
    if len(lines) > SHOWN_COMMITS:
        yield f"{indent}and {len(lines) - SHOWN_COMMITS} more"


def _changed_images(before: Environment, after: Environment) -> Iterator[str]:
    old, new = dict(environments.images(before.images)), dict(environments.images(after.images))
    for key in sorted({*old, *new}):
        first, second = old.get(key), new.get(key)
        if first == second:
            continue
        yield f"  {key}"
        yield f"    {_image(first)}"
        yield f"    -> {_image(second)}"


def _image(image: dict[str, str] | None) -> str:
    if image is None:
        return "none"
    tag = f":{image['tag']}" if "tag" in image else ""
    digest = f"@{image['digest']}" if "digest" in image else ""
    return f"{image['repository']}{tag}{digest}"
