"""The model registry: is a trained model good enough, and which version gets which alias."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from trainyard_contract import CHAMPION, TAG_PREFIX, Tag

from trainyard.mlflow_client import MlflowClient, MlflowError, ModelVersion, Run

CHALLENGER = "challenger"
# Tags of a run that say of what code it trained.
MADE_OF = (Tag.GIT_COMMIT, Tag.IMAGE, Tag.DAG_VERSION)
# Tag of a version that is or was champion: run key of the run that made it so.
CHAMPION_BY_TAG = f"{TAG_PREFIX}champion_by"
# Tags of a version that was champion: until when, and which version came after it.
CHAMPION_UNTIL_TAG = f"{TAG_PREFIX}champion_until"
REPLACED_BY_TAG = f"{TAG_PREFIX}replaced_by"


@dataclass(frozen=True)
class Champion:
    """The version to beat, its metric, and on which data that was measured, in words."""

    version: str
    metric: float
    measured: str = "on the same data"


@dataclass(frozen=True)
class GateDecision:
    """Whether a model may become champion, and why. On a first run there is no champion."""

    passed: bool
    reason: str
    metric: float
    champion_metric: float | None
    champion_version: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be compared: NaN is neither below a minimum nor worse than a champion."""
        _require_score("the model's score", self.metric, "look at the metrics of its evaluation")
        if self.champion_metric is not None:
            cure = "give the alias champion to another version, or delete it for a first run"
            _require_score("the champion's score", self.champion_metric, cure)


@dataclass(frozen=True)
class Promotion:
    """The registered version and the alias that it has.

    Args:
        model: name in the registry.
        version: its number.
        alias: `champion` or `challenger`.
        reason: why, in words.
        moved: whether this call made the version champion.
        made_champion: whether this run did, in this call or in an earlier one that was interrupted.
    """

    model: str
    version: str
    alias: str
    reason: str
    moved: bool = False
    made_champion: bool = False


def decide(
    metric: float, champion: Champion | None, *, minimum: float, min_improvement: float
) -> GateDecision:
    """Decide whether `metric` (higher is better) is enough to replace the champion.

    Raises:
        ValueError: a score is not a finite number.
    """
    to_beat = (champion.metric, champion.version) if champion else (None, None)
    gate = GateDecision(False, "", metric, *to_beat)  # refuses what is no score before anything is compared
    if metric < minimum:
        return replace(gate, reason=f"{metric:.4f} is below the minimum of {minimum:.4f}")
    if champion is None:
        reason = f"{metric:.4f} reaches the minimum of {minimum:.4f}; it is the first champion"
        return replace(gate, passed=True, reason=reason)
    gain = metric - champion.metric
    # More than by rounding: 0.945 - 0.94 is a little more than 0.005.
    passed = gain - min_improvement > 1e-9
    comparison = "better" if passed else "not better"
    reason = (
        f"{metric:.4f} is {comparison} than the champion's {champion.metric:.4f} by more than "
        f"{min_improvement:.4f} ({gain:+.4f}); v{champion.version} was measured {champion.measured}"
    )
    return replace(gate, passed=passed, reason=reason)


async def champion_of(
    client: MlflowClient, model: str, metric: str, evaluated: object = None
) -> Champion | None:
    """The champion of `model` with its metric; None without one.

    That is what the step `evaluate` found of it on the candidate's data (`evaluated`: its result's
    `champion`), or else what its own evaluation left in the MLflow run that trained it.

    Raises:
        ValueError: the champion's run does not have the metric.
    """
    champion = await find_alias(client, model, CHAMPION)
    if champion is None:
        return None
    version = str(champion.version)
    found = evaluated if isinstance(evaluated, Mapping) else {}  # an image of somebody else made it
    if str(found.get("version")) == version and metric in found:
        return Champion(version, found[metric])
    metrics = (await client.get_run(champion.run_id)).metrics
    if metric not in metrics:
        raise ValueError(
            f"run {champion.run_id} of the champion {model} v{version} has no metric {metric!r}; "
            "give the alias to another version or evaluate that model again"
        )
    measured = f"on its own test set, because {_not_evaluated(found, version, metric)}"
    return Champion(version, float(metrics[metric]), measured)


def _not_evaluated(found: Mapping[str, Any], version: str, metric: str) -> str:
    if not found:
        return "evaluate found no champion, or does not score one"
    if str(found.get("version")) != version:
        return f"evaluate scored v{found.get('version')}, which was champion then"
    return str(found.get("error") or f"evaluate gave no {metric} of it")


async def find_alias(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    """The version of `model` with `alias`; None when model or alias do not exist."""
    try:
        return await client.get_model_version_by_alias(model, alias)
    except MlflowError as error:
        # A missing alias is INVALID_PARAMETER_VALUE, a missing model RESOURCE_DOES_NOT_EXIST.
        if error.code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


async def register(
    client: MlflowClient,
    *,
    model: str,
    model_uri: str,
    run_id: str,
    run_key: str,
    tags: Mapping[str, Any] | None = None,
) -> ModelVersion:
    """Register `model_uri` as a version of `model`, once per run key however often it is called.

    A run whose tasks were cleared may come with another model: that becomes a version of its own, with the
    same run key. The version is a candidate: it has no alias before `promote`. `models:/m-...` (a logged
    model) and `runs:/RUN/path` are understood; `tags` go onto the version, and those of the run that say what
    trained it.
    """
    await _ensure_model(client, model)
    run = await client.get_run(run_id)
    source, model_id = await _origin(client, model_uri, run)
    known = await _versions_of(client, model, run_key, source)
    made_of = {tag.removeprefix(TAG_PREFIX): run.tags.get(tag) for tag in MADE_OF}
    version = known[0] if known else await _create_version(client, model, source, model_id, run_id, run_key)
    await _tag(client, version, {**made_of, **(tags or {})})
    return version


async def promote(
    client: MlflowClient,
    *,
    model: str,
    model_uri: str,
    run_id: str,
    run_key: str,
    gate: GateDecision,
    tags: Mapping[str, Any],
) -> Promotion:
    """Register the model if that is not done yet, and make it champion if the gate passed, else challenger.

    May be repeated: a version that is champion already remains champion. `gate` counts only while its
    champion is the champion (see `as_of_now`). `tags` (metrics, git commit, data version, ...) go onto the
    version; the champion before it keeps tags that say until when it was and what replaced it.
    """
    version = await register(client, model=model, model_uri=model_uri, run_id=run_id, run_key=run_key)
    before = await find_alias(client, model, CHAMPION)
    gate = as_of_now(gate, str(version.version), before)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    decision = {"gate": json.dumps(vars(gate)), "decided_at": now, "reason": gate.reason}
    await _tag(client, version, {**tags, **decision})
    is_champion = before is not None and before.version == version.version
    if not gate.passed and not is_champion:
        await client.set_registered_model_alias(model, CHALLENGER, version.version)
        return Promotion(model, str(version.version), CHALLENGER, gate.reason)
    if not is_champion:
        await _move_alias(client, version, before, now, run_key)
    made = not is_champion or version.tags.get(CHAMPION_BY_TAG) == run_key
    return Promotion(
        model, str(version.version), CHAMPION, gate.reason, moved=not is_champion, made_champion=made
    )


def as_of_now(gate: GateDecision, version: str, champion: ModelVersion | None) -> GateDecision:
    """The decision on `version`, given who is `champion` by now.

    Approval and deployment come after the gate and may take days. A version that became champion meanwhile
    was never compared with this one, so it stays.
    """
    if not gate.passed or champion is None or str(champion.version) in (version, gate.champion_version):
        return gate
    compared = f"v{gate.champion_version}" if gate.champion_version else "no champion"
    reason = f"v{champion.version} became champion after v{version} was compared with {compared}"
    return replace(gate, passed=False, reason=f"{reason}; {gate.reason}")


async def make_champion(
    client: MlflowClient, *, model: str, version: str, run_key: str, reason: str, tags: Mapping[str, Any]
) -> Promotion:
    """Make a registered version champion without a gate, because a person deployed it.

    May be repeated by the run of `run_key`. The champion before it keeps tags that say until when it was and
    what replaced it.
    """
    chosen = await client.get_model_version(model, version)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    before = await find_alias(client, model, CHAMPION)
    if before is not None and before.version == chosen.version:
        made = chosen.tags.get(CHAMPION_BY_TAG) == run_key
        return Promotion(model, version, CHAMPION, reason, made_champion=made)
    await _tag(client, chosen, {**tags, "decided_at": now, "reason": reason})
    await _move_alias(client, chosen, before, now, run_key)
    return Promotion(model, version, CHAMPION, reason, moved=True, made_champion=True)


async def _move_alias(
    client: MlflowClient, version: ModelVersion, before: ModelVersion | None, now: str, run_key: str
) -> None:
    """Move the alias champion to `version`. The alias moves last, so that a repetition finishes the rest."""
    if before is not None:
        await client.set_model_version_tag(version.name, before.version, CHAMPION_UNTIL_TAG, now)
        await client.set_model_version_tag(
            version.name, before.version, REPLACED_BY_TAG, str(version.version)
        )
    for tag in (CHAMPION_UNTIL_TAG, REPLACED_BY_TAG):  # a former champion that comes back
        if tag in version.tags:
            await client.delete_model_version_tag(version.name, version.version, tag)
    await client.set_model_version_tag(version.name, version.version, CHAMPION_BY_TAG, run_key)
    challenger = await find_alias(client, version.name, CHALLENGER)
    if challenger is not None and challenger.version == version.version:
        await client.delete_registered_model_alias(version.name, CHALLENGER)
    await client.set_registered_model_alias(version.name, CHAMPION, version.version)


async def _origin(client: MlflowClient, model_uri: str, run: Run) -> tuple[str, str | None]:
    """Where the model's files lie, by which a version tells whose it is, and the id of a logged model."""
    if model_uri.startswith("models:/"):
        model_id = model_uri.removeprefix("models:/")
        return await client.get_logged_model_location(model_id), model_id
    if model_uri.startswith("runs:/"):
        artifact = model_uri.removeprefix("runs:/").partition("/")[2]
        return f"{run.artifact_uri}/{artifact}", None
    return model_uri, None


async def _create_version(
    client: MlflowClient, model: str, source: str, model_id: str | None, run_id: str, run_key: str
) -> ModelVersion:
    created = await client.create_model_version(
        model, source=source, run_id=run_id, tags={Tag.RUN_KEY: run_key}, model_id=model_id
    )
    # Two registrations at once both get here: the one with the lower number stays.
    first = (await _versions_of(client, model, run_key, source))[0]
    if first.version != created.version:
        await client.delete_model_version(model, created.version)
    return first


async def _tag(client: MlflowClient, version: ModelVersion, tags: Mapping[str, Any]) -> None:
    for key, value in tags.items():
        if value not in (None, ""):
            await client.set_model_version_tag(
                version.name, version.version, f"{TAG_PREFIX}{key}", str(value)
            )


def _require_score(what: str, value: object, cure: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} is {value!r}, not a finite number; {cure}")


async def _ensure_model(client: MlflowClient, model: str) -> None:
    try:
        await client.create_registered_model(model)
    except MlflowError as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise


async def _versions_of(client: MlflowClient, model: str, run_key: str, source: str) -> list[ModelVersion]:
    """Versions of `model` that this run key made of what lies at `source`, oldest first."""
    # Filtered here rather than by the server: a filter on tags and name together differs among stores.
    versions = await client.search_model_versions(f"name = '{model}'")
    mine = [
        version
        for version in versions
        if version.tags.get(Tag.RUN_KEY) == run_key and version.source == source
    ]
    return sorted(mine, key=lambda version: int(version.version))
