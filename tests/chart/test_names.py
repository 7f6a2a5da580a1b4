"""Any name of a release, in any namespace, also beside another release."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from references import References, place
from render import ROOT, Object, identity, render_chart

SECOND = ("second-release.yaml",)
LONG = "a-release-name-may-have-fifty-three-characters-as-this"[:53]
RELEASES = [
    ("two", "trainyard"),  # beside the first one in its namespace
    ("1st.two", "two"),
    *(
        pytest.param(*names, marks=pytest.mark.exhaustive)
        for names in (("two", "two"), ("team.two", "two"), ("1st", "two"), (LONG, "trainyard"))
    ),
]
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SERVICE = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
# Kubernetes appends 11 characters to them, in names and in labels.
SHORT = {"CronJob", "StatefulSet"}
each_release = pytest.mark.parametrize(("release", "namespace"), RELEASES)


def priority_classes() -> set[tuple[str, None, str]]:
    """What the first release makes for all of them."""
    return {place(one) for one in render_chart() if one["kind"] == "PriorityClass"}


@each_release
def test_two_releases_share_nothing_but_what_is_said(release: str, namespace: str) -> None:
    first = render_chart()
    second = render_chart(files=SECOND, release=release, namespace=namespace)
    assert not {place(one) for one in first} & {place(one) for one in second}
    assert not [one for one in second if one["kind"] in ("PriorityClass", "DaemonSet")]
    assert References(second, priority_classes()).check() == []
    # Services and budgets select pods of their own release, too.
    assert References([*first, *second]).check() == []


def labels(value: Any) -> Iterator[str]:
    """Every label and selector of an object."""
    if isinstance(value, dict):
        for key, child in value.items():
            if key in ("labels", "matchLabels", "selector"):
                yield from (each for each in child.values() if isinstance(each, str))
            yield from labels(child)
    elif isinstance(value, list):
        for child in value:
            yield from labels(child)


@pytest.mark.parametrize(
    "files",
    [
        (),
        pytest.param(("kind.yaml",), marks=pytest.mark.exhaustive),
        ("production.yaml", "dags-from-git.yaml"),
    ],
)
@pytest.mark.parametrize("release", [LONG, "1.2"])
def test_names_are_what_kubernetes_takes(files: tuple[str, ...], release: str) -> None:
    assert len(LONG) == 53
    for one in render_chart(files=files, release=release):
        name = one["metadata"]["name"]
        assert len(name) <= (52 if one["kind"] in SHORT else 63), identity(one)
        assert (SERVICE if one["kind"] == "Service" else DNS_LABEL).fullmatch(name), identity(one)
        assert all(len(each) <= 63 for each in labels(one)), identity(one)


def test_names_that_are_cut_stay_different() -> None:
    releases = (LONG, f"{LONG[:-1]}x")
    names = [
        {
            place(one)
            for one in render_chart(files=SECOND, release=each)
            if one["metadata"].get("namespace") == "trainyard"
        }
        for each in releases
    ]
    assert names[0] and not names[0] & names[1]


def test_every_name_starts_with_the_releases() -> None:
    shared = {"datasets", "checkpoints", "trainer", "model-server"}  # in namespaces of their own
    for one in render_chart(files=SECOND, release="two", namespace="two"):
        if one["metadata"].get("namespace") and one["metadata"]["name"] not in shared:
            assert one["metadata"]["name"].startswith("two-"), identity(one)


def test_the_overlay_turns_off_every_priority_class() -> None:
    overlay = yaml.safe_load((ROOT / "values" / SECOND[0]).read_text())
    assert set(overlay["priorityClasses"]) == {name for _, _, name in priority_classes()}


@pytest.mark.parametrize("namespace", ["trainyard", "kube-system", "default"])
def test_no_namespace_is_made_that_is_there_already(namespace: str) -> None:
    values: Object = {"nvidia-device-plugin": {"namespaceOverride": namespace}}
    spaces = {one["metadata"]["name"] for one in render_chart(values=values) if one["kind"] == "Namespace"}
    assert spaces == {"ml-training", "ml-serving"}


@pytest.mark.parametrize(
    ("key", "namespace"),
    [
        ("nvidia-device-plugin", "nvidia-device-plugin"),
        ("training", "ml-training"),
        ("serving", "ml-serving"),
    ],
)
def test_a_namespace_may_come_from_elsewhere(key: str, namespace: str) -> None:
    objects = render_chart(values={key: {"createNamespace": False}})
    assert ("Namespace", None, namespace) not in {place(one) for one in objects}
    assert namespace in {one["metadata"].get("namespace") for one in objects}
