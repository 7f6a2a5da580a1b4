"""Gate and promotion against a real MLflow server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import mlflow
import pytest
from registered_models import aliases_of, ask, champion_of, promote, run, trained
from trainyard.mlflow_client import MlflowClient
from trainyard.registry import client as registry
from trainyard.registry.client import Champion, GateDecision, decide


@pytest.mark.parametrize(
    ("metric", "champion", "passed", "reason"),
    [
        (0.89, None, False, "below the minimum"),
        (0.90, None, True, "first champion"),
        (0.95, 0.94, True, "better than the champion's 0.9400"),
        (0.95, 0.94, True, "; v3 was measured on the same data"),
        (0.945, 0.94, False, "not better than the champion's"),
        (0.50, 0.40, False, "below the minimum"),
    ],
)
def test_the_gate(metric: float, champion: float | None, passed: bool, reason: str) -> None:
    to_beat = None if champion is None else Champion("3", champion)
    gate = decide(metric, to_beat, minimum=0.9, min_improvement=0.005)
    assert (gate.passed, gate.metric, gate.champion_metric) == (passed, metric, champion)
    assert gate.champion_version == (None if champion is None else "3")
    assert reason in gate.reason


def test_a_missing_champion_is_a_first_run(client: mlflow.MlflowClient, model: str) -> None:
    assert champion_of(client, model, "f1_macro", {"version": "1", "f1_macro": 0.9}) is None


def test_better_replaces_and_no_better_challenges(client: mlflow.MlflowClient, model: str) -> None:
    promotions = [run(client, model, f"k{i}", f1) for i, f1 in enumerate((0.95, 0.952, 0.97))]
    assert [p.alias for p in promotions] == ["champion", "challenger", "champion"]
    assert aliases_of(client, model) == {"champion": 3, "challenger": 2}
    before, now = (client.get_model_version(model, number) for number in ("1", "3"))
    assert before.tags["trainyard.replaced_by"] == "3"
    assert "trainyard.champion_until" in before.tags
    assert now.tags["trainyard.git_commit"] == "abc"
    assert now.tags["trainyard.run_key"] == "k2"
    assert "trainyard.nothing" not in now.tags
    assert {"trainyard.reason", "trainyard.decided_at", "trainyard.f1_macro"} <= set(now.tags)


def test_a_version_tells_what_trained_it(client: mlflow.MlflowClient, model: str) -> None:
    about = trained(client, 0.95)
    tags = {"trainyard.git_commit": "c", "trainyard.image": "i@sha256:1", "trainyard.dag_version": "v"}
    for key, value in {**tags, "trainyard.device": "cpu"}.items():
        client.set_tag(about["run_id"], key, value)
    version = ask(client, registry.register, model=model, run_key="k", **about)
    found = client.get_model_version(model, str(version.version)).tags
    assert found == {**tags, "trainyard.run_key": "k"}


def test_a_repeated_run_keeps_its_version_and_its_alias(client: mlflow.MlflowClient, model: str) -> None:
    about = trained(client, 0.95)
    first = run(client, model, "k", 0.95, about)
    again = run(client, model, "k", 0.95, about)  # its gate sees the champion that it is itself
    assert (again.version, again.alias) == (first.version, "champion")
    assert len(client.search_model_versions(f"name = '{model}'")) == 1


def test_a_cleared_run_with_another_model_has_another_version(
    client: mlflow.MlflowClient, model: str
) -> None:
    first, second = trained(client, 0.95), trained(client, 0.97)
    promotions = [run(client, model, "k", f1, it) for f1, it in ((0.95, first), (0.97, second))]
    assert [(one.version, one.moved) for one in promotions] == [("1", True), ("2", True)]
    versions = [client.get_model_version(model, number) for number in ("1", "2")]
    ids = [about["model_uri"].removeprefix("models:/") for about in (first, second)]
    files = [client.get_logged_model(model_id).artifact_location for model_id in ids]
    assert [version.source for version in versions] == files
    told = [(version.tags["trainyard.f1_macro"], version.tags["trainyard.run_key"]) for version in versions]
    assert told == [("0.95", "k"), ("0.97", "k")]
    for number, about in (("1", first), ("2", second)):
        again = ask(client, registry.register, model=model, run_key="k", **about)
        assert str(again.version) == number, "each model keeps its own"


def test_an_artifact_of_a_run_is_registered_once(client: mlflow.MlflowClient, model: str) -> None:
    run_id = trained(client, 0.95)["run_id"]
    about = {"model": model, "run_id": run_id, "run_key": "k"}
    paths = ("model", "model", "other")
    numbers = [
        ask(client, registry.register, model_uri=f"runs:/{run_id}/{p}", **about).version for p in paths
    ]
    assert [int(number) for number in numbers] == [1, 1, 2]


def test_registrations_at_once_leave_one_version(client: mlflow.MlflowClient, model: str) -> None:
    about = trained(client, 0.95)

    async def four_at_once(ours: MlflowClient) -> Any:
        return await asyncio.gather(
            *(registry.register(ours, model=model, run_key="k", **about) for _ in range(4))
        )

    assert len({each.version for each in ask(client, four_at_once)}) == 1
    assert len(client.search_model_versions(f"name = '{model}'")) == 1


def test_a_champion_without_the_metric_is_named(client: mlflow.MlflowClient, model: str) -> None:
    run(client, model, "k", 0.95)
    with pytest.raises(ValueError, match=r"champion .* has no metric 'auc'"):
        champion_of(client, model, "auc", {"version": "1", "f1_macro": 0.9})
    assert champion_of(client, model, "auc", {"version": "1", "auc": 0.8}) == Champion("1", 0.8)


@pytest.mark.parametrize(
    ("evaluated", "because"),
    [
        (None, "evaluate found no champion, or does not score one"),
        ("by an image of somebody else", "evaluate found no champion, or does not score one"),
        ({"version": "1", "f1_macro": 0.5}, "evaluate scored v1, which was champion then"),
        ({"version": "2", "error": "it takes other inputs"}, "it takes other inputs"),
        ({"version": "2", "accuracy": 0.5}, "evaluate gave no f1_macro of it"),
    ],
)
def test_a_champion_that_was_not_evaluated_has_its_own_score(
    client: mlflow.MlflowClient, model: str, evaluated: Any, because: str
) -> None:
    run(client, model, "first", 0.92)
    run(client, model, "second", 0.95)
    champion = champion_of(client, model, "f1_macro", evaluated)
    assert champion == Champion("2", 0.95, f"on its own test set, because {because}")
    gate = decide(0.97, champion, minimum=0, min_improvement=0)
    assert gate.reason.endswith(f"; v2 was measured on its own test set, because {because}")


def test_the_decision_survives_xcom() -> None:
    gate = decide(0.95, Champion("1", 0.9), minimum=0.9, min_improvement=0.0)
    assert GateDecision(**vars(gate)) == gate


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None, "0.97", True])
def test_what_is_no_score_never_passes_a_gate(score: Any) -> None:
    with pytest.raises(ValueError, match=r"model's score is .*not a finite number"):
        decide(score, None, minimum=0.9, min_improvement=0.0)
    with pytest.raises(ValueError, match="not a finite number"):
        GateDecision(True, "as it came from XCom", score, None)


def test_a_champion_with_nan_says_how_to_get_rid_of_it() -> None:
    with pytest.raises(ValueError, match=r"champion's score is nan.*give the alias champion to another"):
        decide(0.95, Champion("1", float("nan")), minimum=0.9, min_improvement=0.0)


def test_a_candidate_is_registered_first_and_promoted_later(client: mlflow.MlflowClient, model: str) -> None:
    about = trained(client, 0.95)
    candidate = ask(client, registry.register, model=model, run_key="k", tags={"commit": "abc"}, **about)
    assert ask(client, registry.find_alias, model, "champion") is None
    promoted = promote(
        client,
        model=model,
        run_key="k",
        gate=decide(0.95, None, minimum=0.9, min_improvement=0),
        tags={"approved_by": "ada"},
        **about,
    )
    assert (promoted.version, promoted.alias, promoted.moved) == (str(candidate.version), "champion", True)
    tags = client.get_model_version(model, promoted.version).tags
    assert (tags["trainyard.commit"], tags["trainyard.approved_by"]) == ("abc", "ada")


def test_only_a_new_champion_counts_as_moved(client: mlflow.MlflowClient, model: str) -> None:
    models = {key: trained(client, 0.95) for key in "ab"}
    promotions = [run(client, model, key, 0.95, models[key]) for key in "aab"]
    assert [p.moved for p in promotions] == [True, False, False]
    assert [p.made_champion for p in promotions] == [True, True, False]


def test_a_challenger_that_wins_later_is_no_challenger_any_more(
    client: mlflow.MlflowClient, model: str
) -> None:
    scores = {"a": 0.95, "b": 0.952, "c": 0.96}
    models = {key: trained(client, f1) for key, f1 in scores.items()}
    for key, f1 in scores.items():
        run(client, model, key, f1, models[key])
    won = GateDecision(True, "approved", 0.952, 0.96, "3")
    assert promote(client, model=model, run_key="b", gate=won, tags={}, **models["b"]).alias == "champion"
    back = GateDecision(True, "rolled back", 0.96, 0.952, "2")
    assert promote(client, model=model, run_key="c", gate=back, tags={}, **models["c"]).version == "3"
    assert aliases_of(client, model) == {"champion": 3}
    assert client.get_model_version(model, "2").tags["trainyard.replaced_by"] == "3"
    assert "trainyard.replaced_by" not in client.get_model_version(model, "3").tags


@pytest.mark.parametrize(
    ("first", "compared"), [(0.92, "v1"), (None, "no champion")], ids=["another", "none"]
)
def test_a_verdict_on_another_champion_than_that_of_now_is_obsolete(
    client: mlflow.MlflowClient, model: str, first: float | None, compared: str
) -> None:
    if first:
        run(client, model, "first", first)
    slow = trained(client, 0.95)
    gate = decide(0.95, champion_of(client, model, "f1_macro"), minimum=0.9, min_improvement=0.005)
    assert gate.passed
    mine = ask(client, registry.register, model=model, run_key="slow", **slow)
    better = run(client, model, "fast", 0.99)  # while a person thinks about the slow one
    late = promote(client, model=model, run_key="slow", gate=gate, tags={}, **slow)
    assert (late.version, late.alias, late.moved) == (str(mine.version), "challenger", False)
    expected = f"v{better.version} became champion after v{mine.version} was compared with {compared}; "
    assert late.reason == expected + gate.reason
    told = client.get_model_version(model, late.version).tags
    assert told["trainyard.reason"] == late.reason
    assert json.loads(told["trainyard.gate"])["passed"] is False
    assert aliases_of(client, model) == {"champion": int(better.version), "challenger": int(late.version)}
    assert promote(client, model=model, run_key="slow", gate=gate, tags={}, **slow) == late


def test_a_promotion_that_is_tried_again_holds(client: mlflow.MlflowClient, model: str) -> None:
    run(client, model, "first", 0.92)
    about = trained(client, 0.95)
    gate = decide(0.95, Champion("1", 0.92), minimum=0.9, min_improvement=0.005)
    tries = [promote(client, model=model, run_key="k", gate=gate, tags={}, **about) for _ in range(2)]
    assert [(one.alias, one.moved) for one in tries] == [("champion", True), ("champion", False)]
    assert tries[0].reason == tries[1].reason == gate.reason


def test_a_champion_that_lost_its_alias_is_in_nobodys_way(client: mlflow.MlflowClient, model: str) -> None:
    run(client, model, "first", 0.92)
    client.delete_registered_model_alias(model, "champion")
    gate = decide(0.95, Champion("1", 0.92), minimum=0.9, min_improvement=0.005)
    about = trained(client, 0.95)
    assert promote(client, model=model, run_key="k", gate=gate, tags={}, **about).alias == "champion"


def test_a_version_deployed_by_hand_becomes_champion(client: mlflow.MlflowClient, model: str) -> None:
    run(client, model, "first", 0.92)
    run(client, model, "second", 0.95)
    about: dict[str, Any] = {"model": model, "version": "1", "run_key": "k"}
    back = ask(client, registry.make_champion, **about, reason="rolled back", tags={"by": "ann"})
    assert (back.version, back.alias, back.moved) == ("1", "champion", True)
    versions = {version: client.get_model_version(model, version) for version in ("1", "2")}
    assert str(client.get_model_version_by_alias(model, "champion").version) == "1"
    assert versions["1"].tags["trainyard.by"] == "ann"
    assert "trainyard.champion_until" not in versions["1"].tags
    assert versions["2"].tags["trainyard.replaced_by"] == "1"
    again = ask(client, registry.make_champion, **about, reason="again", tags={})
    assert (again.moved, again.made_champion) == (False, True)
