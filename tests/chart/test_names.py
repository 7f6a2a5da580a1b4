"""Any name of a release, in any namespace, also beside another release."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from components import VARIANTS
from leaves import ON
from references import References, place
from render import CHART, ROOT, ChartError, Object, identity, render_chart, wanted_secrets
from trainyard_cli.chart import merge

SECOND = ("second-release.yaml",)
CHARTS = ("airflow", "mlflow", "postgresql", "versitygw", "nvidia-device-plugin")
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


@pytest.mark.parametrize("release", [LONG, "1.2"])
def test_names_of_the_users_are_what_kubernetes_takes(release: str) -> None:
    """The longest that the schema takes."""
    values = {chart: {"nameOverride": f"{number}{'x' * 19}"} for number, chart in enumerate(CHARTS)}
    objects = render_chart(values=values, release=release)
    assert References(objects).check() == []
    for one in objects:
        name = one["metadata"]["name"]
        assert len(name) <= (52 if one["kind"] in SHORT else 63), identity(one)
        assert (SERVICE if one["kind"] == "Service" else DNS_LABEL).fullmatch(name), identity(one)


def service_names(release: str = "trainyard", **values: Object) -> set[str]:
    objects = render_chart(values=values, release=release)
    return {one["metadata"]["name"] for one in objects if one["kind"] == "Service"}


def test_a_name_stands_behind_that_of_the_release() -> None:
    parts = {"airflow": "airflow", "mlflow": "tracking", "postgresql": "db", "versitygw": "store"}
    assert service_names(**{chart: {"nameOverride": part} for chart, part in parts.items()}) == {
        *("trainyard-airflow-api-server", "trainyard-tracking", "trainyard-db", "trainyard-store")
    }


def test_the_whole_name_goes_before_a_part() -> None:
    assert "tracking" in service_names(mlflow={"nameOverride": "part", "fullnameOverride": "tracking"})


def test_a_release_that_has_the_name_already_is_not_named_twice() -> None:
    assert "airflow-1-api-server" in service_names("airflow-1", airflow={"nameOverride": "airflow"})
    assert "airflow-1-mlflow" in service_names("airflow-1", mlflow={"nameOverride": "mlflow"})


def test_labels_keep_the_name_of_the_chart() -> None:
    """Selectors are immutable, and dashboards go by them."""
    renamed = render_chart(values={chart: {"nameOverride": chart[:3]} for chart in CHARTS})
    found = {one["metadata"]["labels"]["app.kubernetes.io/name"] for one in renamed}
    assert found == {one["metadata"]["labels"]["app.kubernetes.io/name"] for one in render_chart()}
    assert found >= set(CHARTS)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"airflow": {"nameOverride": "mlflow"}},
            r"airflow\.nameOverride: names of airflow would start with trainyard-mlflow, as those of mlflow",
        ),
        (
            {"postgresql": {"fullnameOverride": "trainyard-mlflow"}},
            r"postgresql\.fullnameOverride: names of postgresql would start with trainyard-mlflow, as",
        ),
        (
            {"postgresql": {"nameOverride": "pgbouncer"}},
            r"postgresql\.nameOverride: trainyard-pgbouncer would be a name of postgresql, and is one of air",
        ),
        (
            {"mlflow": {"fullnameOverride": "trainyard-scheduler"}},
            r"mlflow\.fullnameOverride: trainyard-scheduler would be a name of mlflow, and is one of airflow",
        ),
        (
            {
                "mlflow": {"nameOverride": "dag-publisher-one"},
                "airflow": {"dags": {"git": {"bundles": {"one": {"repo": "https://example.com/x.git"}}}}},
            },
            r"mlflow\.nameOverride: trainyard-dag-publisher-one would be a name of mlflow",
        ),
        (
            {"airflow": {"nameOverride": "platform"}},
            r"airflow\.nameOverride: trainyard-platform-scripts would be a name of airflow, and is one of",
        ),
        (
            {"mlflow": {"nameOverride": "yard"}},
            r"mlflow\.nameOverride: names of mlflow would start with trainyard, as those of airflow do",
        ),
    ],
)
def test_two_charts_do_not_share_a_name(values: Object, said: str) -> None:
    with pytest.raises(ChartError, match=said):
        render_chart(values=values)


def renders_of_all() -> list[list[Object]]:
    """Renders that make, together, every object that there can be."""
    starts = {chart: {"fullnameOverride": f"the-{chart}"} for chart in CHARTS}
    own = {"existingClaim": ""}
    more: Object = {
        "airflow": {
            "data": {"metadataConnection": {"host": "db.example.com"}},
            "logs": {"persistence": own},
            "apiServer": {"apiServerConfig": "A = 1"},
            "pgbouncer": {"enabled": True, "ssl": {"ca": "PEM", "cert": "PEM", "key": "PEM"}},
        },
        "postgresql": {"tlsSecretName": "tls"},
        "nvidia-device-plugin": {"config": {"map": {"default": "version: v1"}}},
    }
    given: list[tuple[tuple[str, ...], Object]] = [*((files, {}) for files in VARIANTS), ((), ON), ((), more)]
    return [render_chart(files=files, values=merge(values, starts)) for files, values in given]


def named(objects: list[Object]) -> Iterator[tuple[str, str, str]]:
    """Kind, namespace and name of what has a namespace: objects, and Secrets that the bootstrap Job makes."""
    for one in objects:
        if one["metadata"].get("namespace"):
            yield one["kind"], one["metadata"]["namespace"], identity(one)[1]
    for name in wanted_secrets(objects):
        namespace, _, secret = name.rpartition("/")
        yield "Secret", namespace or "trainyard", secret


@functools.cache
def ends() -> dict[tuple[str, str], set[tuple[str, str]]]:
    """Chart and namespace -> kinds and ends of the names that it gives there."""
    found: dict[tuple[str, str], set[tuple[str, str]]] = {}
    starts = {**{f"the-{chart}": chart for chart in CHARTS}, "trainyard": "trainyard"}
    for objects in renders_of_all():
        for kind, namespace, name in named(objects):
            for start, chart in starts.items():
                if f"{name}-".startswith(f"{start}-"):
                    end = name.removeprefix(start).removeprefix("-")
                    found.setdefault((chart, namespace), set()).add((kind, end))
    return found


SPACES = {
    "release": "trainyard",
    "training": "ml-training",
    "serving": "ml-serving",
    "jobs": "ml-jobs",
    "store": "ml-training",
}
# Kinds that no two charts make.
OF_ONE_CHART = {"NetworkPolicy", "LimitRange", "ResourceQuota"}
USERS = {
    "BUNDLE": "git-sync|one|ranking|vision",
    "ACCOUNT": "admin|promoter|serving|trainer",
    "POOL": "ondemand|spot",
}


def listed() -> dict[tuple[str, str], set[str]]:
    """The same, without kinds, by files/name-ends.yaml: patterns."""
    found: dict[tuple[str, str], set[str]] = {}
    for chart, spaces in yaml.safe_load((CHART / "files/name-ends.yaml").read_text()).items():
        for space, some in spaces.items():
            place = (chart, SPACES.get(space, "nvidia-device-plugin"))
            for end in some:
                word = re.search("[A-Z]+$", end)
                names = USERS[word[0]].split("|") if word else [""]
                found.setdefault(place, set()).update(re.sub("[A-Z]+$", "", end) + name for name in names)
    return found


def test_the_ends_of_names_are_listed() -> None:
    made = {
        place: {end for kind, end in some if kind not in OF_ONE_CHART} - {""}
        for place, some in ends().items()
    }
    told = {place: some - {""} for place, some in listed().items()}
    told["trainyard", "trainyard"] -= {"alerts"}  # a Secret of the user's
    assert {place: some for place, some in made.items() if some} == {
        place: some for place, some in told.items() if some
    }


def collisions(parts: dict[str, str]) -> set[tuple[str, str]]:
    """Charts, two each, of which objects or Secrets have one name where these parts are in names."""
    starts = {
        "airflow": "trainyard",
        "trainyard": "trainyard",
        **{name: f"trainyard-{name}" for name in CHARTS[1:]},
    }
    starts |= {chart: f"trainyard-{part}" for chart, part in parts.items()}
    taken: dict[tuple[str, str, str], str] = {}
    found = set()
    for (owner, namespace), some in ends().items():
        for kind, end in some:
            name = f"{starts[owner]}-{end}".removesuffix("-")
            other = taken.setdefault((kind, namespace, name), owner)
            if other != owner:
                found.add((other, owner))
    return found


PARTS = sorted(
    {end for some in listed().values() for end in some if 0 < len(end) <= 20 and "publisher-" not in end}
    | set(CHARTS)
)


@pytest.mark.parametrize("turn", range(0, len(PARTS), 5))
def test_no_part_of_a_name_makes_two_objects_one(turn: int) -> None:
    """Each part in the names of each chart: refused by the key where there would be two of one name."""
    # Several charts share a render, but for Airflow's, whose names the others' are to meet.
    for number, charts in itertools.product(range(turn, min(turn + 5, len(PARTS))), (CHARTS[:1], CHARTS[1:])):
        parts = {chart: PARTS[(number + 7 * more) % len(PARTS)] for more, chart in enumerate(charts)}
        values = {chart: {"nameOverride": part} for chart, part in parts.items()}
        both = collisions(parts)
        if not both and number % 5:  # one of five of those that do no harm
            continue
        try:
            places = [place(one) for one in render_chart(values=values)]
        except ChartError as refused:
            for pair in both:
                assert any(f"- {chart}.nameOverride: " in str(refused) for chart in pair), (parts, refused)
        else:
            assert both == set() and len(places) == len(set(places)), parts


def test_names_may_be_the_same_where_the_objects_are_not() -> None:
    """In other namespaces, or of a chart that is off."""
    name = {"fullnameOverride": "same"}
    mlflow = {"enabled": False, **name}
    tracking = {"trackingUri": "http://mlflow.example.com"}
    assert render_chart(values={"airflow": name, "versitygw": name, "mlflow": mlflow, "training": tracking})


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
