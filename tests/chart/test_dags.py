"""Where DAGs come from: who mounts them, what a change of them restarts, and which keys do what."""

from __future__ import annotations

import configparser
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.bundles.manager import DagBundlesManager
from render import (
    ChartError,
    Object,
    containers,
    environment,
    find,
    identity,
    pod_metadata,
    pod_spec,
    render_chart,
    render_text,
    worker_pod,
)
from trainyard.bundles.git import PublishedGitBundle
from trainyard.bundles.image import IMAGE_VARIABLE, ImageDagBundle
from trainyard.bundles.pod import NAME

KNOWN_HOSTS = "[git.example.com]:2222 ssh-ed25519 AAAA\n"
SSH = {"repo": "ssh://git@git.example.com:2222/team.git", "sshKeySecret": "key", "knownHosts": KNOWN_HOSTS}
HTTPS = {"repo": "https://git.example.com/team.git", "credentialsSecret": "token"}
AIRFLOW_PODS = ("api-server", "scheduler", "dag-processor", "triggerer")


def dags(**keys: Any) -> Object:
    return {"airflow": {"dags": keys}}


def git(**bundles: Object) -> Object:
    return dags(git={"bundles": bundles})


def bundles(objects: list[Object]) -> list[Object]:
    """The configured bundles, by name, as Airflow reads them; none where its default holds."""
    parser = configparser.ConfigParser()
    parser.read_string(find(objects, "ConfigMap", "trainyard-config")["data"]["airflow.cfg"])
    return json.loads(parser["dag_processor"].get("dag_bundle_config_list", "[]"))


def pods(objects: list[Object]) -> dict[tuple[str, str], Object]:
    """The pods of every workload, and the worker pod."""
    found = {identity(one): one for one in objects if "template" in one.get("spec", {})}
    return {**found, ("Pod", "worker"): worker_pod(objects)}


def restarted(before: Object, after: Object) -> set[str]:
    """The workloads that a change of values restarts, and the Jobs that it makes."""
    first, second = (
        {
            one["metadata"]["name"]: one
            for one in render_chart(values=values)
            if "template" in one.get("spec", {})
        }
        for values in (before, after)
    )
    return {
        name
        for name, one in second.items()
        if name not in first
        or (pod_spec(one), pod_metadata(one)) != (pod_spec(first[name]), pod_metadata(first[name]))
    }


@pytest.mark.parametrize("mount", ["initContainer", "imageVolume"])
def test_a_new_dag_image_restarts_the_dag_processor_alone(mount: str) -> None:
    before, after = (dags(image={"tag": tag, "mount": mount}) for tag in ("1", "2"))
    assert restarted(before, after) == {"trainyard-dag-processor"}
    # Worker pods take the new one all the same: the scheduler reads their template for each of them.
    assert environment(containers(worker_pod(render_chart(values=after)))[-1])[IMAGE_VARIABLE].endswith(":2")


@pytest.mark.parametrize("mount", ["initContainer", "imageVolume"])
def test_only_what_reads_dags_mounts_them(mount: str) -> None:
    values = dags(image={"mount": mount}, git={"bundles": {"team": SSH}})
    for (_, name), pod in pods(render_chart(values=values)).items():
        volumes = {volume["name"]: volume for volume in pod_spec(pod).get("volumes", [])}
        main = containers(pod)[-1]
        reads = name in ("trainyard-dag-processor", "worker")
        assert {"dags", "git-dags"} <= set(volumes) if reads else not {"dags", "git-dags"} & set(volumes), (
            name
        )
        assert (IMAGE_VARIABLE in environment(main)) == reads, name
        for mounted in main.get("volumeMounts", []):
            if mounted["name"] in ("dags", "git-dags"):
                assert mounted["readOnly"] is True, name


def test_an_image_volume_or_a_copy() -> None:
    objects = render_chart(values=dags(image={"repository": "r/dags", "tag": "1", "mount": "imageVolume"}))
    pod = worker_pod(objects)
    (volume,) = [one for one in pod_spec(pod)["volumes"] if one["name"] == NAME]
    assert volume["image"] == {"reference": "r/dags:1", "pullPolicy": "Always"}
    assert "initContainers" not in pod_spec(pod)
    assert bundles(objects)[0]["kwargs"]["path"] == "/opt/airflow/dags/image/dags"

    objects = render_chart(values=dags(image={"repository": "r/dags", "tag": "1", "path": "/src/dags/"}))
    for pod in (worker_pod(objects), find(objects, "Deployment", "trainyard-dag-processor")):
        (init,) = [one for one in pod_spec(pod)["initContainers"] if one["name"] == NAME]
        assert init["image"] == "r/dags:1"
        assert init["command"] == ["cp", "-R", "/src/dags/.", "/to/"]
        assert init["volumeMounts"] == [{"name": NAME, "mountPath": "/to"}]
    assert bundles(objects)[0]["kwargs"]["path"] == "/opt/airflow/dags/image"


@pytest.mark.parametrize("off", [dags(image={"enabled": False})])
def test_dags_of_ones_own_airflow_image_are_airflows_default(off: Object) -> None:
    objects = render_chart(values=off)
    assert bundles(objects) == []
    assert IMAGE_VARIABLE not in json.dumps(objects)
    config = find(objects, "ConfigMap", "trainyard-config")["data"]["airflow.cfg"]
    assert "dags_folder = /opt/airflow/dags\n" in config


def test_airflow_takes_the_bundles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With Airflow's own reader of its configuration, a percent sign included."""
    view = "https://git.example.com/a%20b/{version}"
    mine = {"name": "mine", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", "kwargs": {}}
    values = git(team={**SSH, "subPath": "/dags/", "viewUrlTemplate": view})
    values["airflow"]["dagProcessor"] = {"dagBundleConfigList": [mine]}
    objects = render_chart(values=values)
    (tmp_path / "airflow.cfg").write_text(
        find(objects, "ConfigMap", "trainyard-config")["data"]["airflow.cfg"]
    )
    from airflow.configuration import AirflowConfigParser

    parser = AirflowConfigParser()
    parser.read(tmp_path / "airflow.cfg")
    configured = parser.get("dag_processor", "dag_bundle_config_list")
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", configured)
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    found = {bundle.name: bundle for bundle in DagBundlesManager().get_all_dag_bundles()}
    assert list(found) == ["dags-folder", "team", "mine"]
    assert isinstance(found["dags-folder"], ImageDagBundle) and isinstance(found["team"], PublishedGitBundle)
    assert found["team"].view_url_template() == view
    assert found["team"].subdir == "dags"


def publisher(objects: list[Object], name: str = "team") -> Object:
    return find(objects, "Deployment", f"trainyard-dag-publisher-{name}")


def options(one: Object) -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=", 1) for argument in containers(one)[0]["args"])


def test_what_is_published_is_where_the_bundle_reads_it() -> None:
    objects = render_chart(values=git(team=SSH))
    (mounted,) = [
        one for one in containers(publisher(objects))[0]["volumeMounts"] if one["name"] == "published"
    ]
    within = Path(options(publisher(objects))["published"]).relative_to(mounted["mountPath"])
    (read,) = [
        one for one in containers(worker_pod(objects))[-1]["volumeMounts"] if one["name"] == "git-dags"
    ]
    (bundle,) = [one for one in bundles(objects) if one["name"] == "team"]
    assert bundle["kwargs"]["published"] == str(Path(read["mountPath"]) / within)
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in (publisher(objects), worker_pod(objects))
        for volume in pod_spec(pod)["volumes"]
        if volume["name"] in ("published", "git-dags")
    }
    assert claims == {"trainyard-dags"}
    assert find(objects, "PersistentVolumeClaim", "trainyard-dags")["spec"]["accessModes"] == [
        "ReadWriteMany"
    ]


def test_a_key_is_in_its_own_publisher_only() -> None:
    objects = render_chart(values=git(team=SSH, other=HTTPS))
    for (kind, name), pod in pods(objects).items():
        held = json.dumps(pod_spec(pod)["volumes"])
        assert ('"name": "key"' in held) == (name == "trainyard-dag-publisher-team"), (kind, name)
        assert ('"secretName": "token"' in held) == (name == "trainyard-dag-publisher-other"), (kind, name)
    (ssh,) = [one for one in pod_spec(publisher(objects))["volumes"] if one["name"] == "ssh"]
    paths = {
        item["path"]
        for source in ssh["projected"]["sources"]
        for one in source.values()
        for item in one["items"]
    }
    assert paths == {"gitSshKey", "known_hosts"}
    assert find(objects, "ConfigMap", "trainyard-dag-publisher")["data"]["team"] == KNOWN_HOSTS


def test_another_bundle_restarts_what_reads_the_configuration() -> None:
    assert "trainyard-dag-publisher-team" not in restarted(git(team=SSH), git(team=SSH, more=HTTPS))


def test_keys_of_a_publisher() -> None:
    resources = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
    team = {**HTTPS, "ref": "v1", "subPath": "a/b", "depth": 0, "period": 7.5, "resources": resources}
    values = dags(
        git={"bundles": {"team": team, "plain": HTTPS}, "timeout": 60, "keepDays": 3, "period": 9},
        persistence={"existingClaim": "mine"},
    )
    objects = render_chart(values=values)
    assert options(publisher(objects)) == {
        "repo": HTTPS["repo"],
        "ref": "v1",
        "subdir": "a/b",
        "depth": "0",
        "period": "7.5",
        "timeout": "60",
        "keep-days": "3",
        "published": "/published/team",
    }
    assert containers(publisher(objects))[0]["resources"] == resources
    plain = options(publisher(objects, "plain"))
    assert (plain["ref"], plain["subdir"], plain["depth"], plain["period"]) == ("HEAD", "", "1", "9")
    assert not [one for one in objects if identity(one) == ("PersistentVolumeClaim", "trainyard-dags")]
    (volume,) = [one for one in pod_spec(publisher(objects))["volumes"] if one["name"] == "published"]
    assert volume["persistentVolumeClaim"]["claimName"] == "mine"


def test_the_alert_and_the_mount_path_reach_the_bundle() -> None:
    values = dags(mountPath="/dags", git={"bundles": {"team": HTTPS}, "alertAfterMinutes": 2})
    image, team = bundles(render_chart(values=values))
    assert image["kwargs"]["path"] == "/dags/image"
    assert (team["kwargs"]["published"], team["kwargs"]["alert_after"]) == ("/dags/git/team", 120)


# ---- the official chart's keys


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {"ref": "HEAD", "subdir": "", "depth": "1", "period": "5"}),
        ({"branch": "main"}, {"ref": "main"}),
        ({"branch": "main", "rev": "HEAD"}, {"ref": "main"}),
        ({"branch": "main", "rev": "v1"}, {"ref": "v1"}),
        ({"branch": "main", "rev": "v1", "ref": "r"}, {"ref": "r"}),
        ({"subPath": "tests/dags"}, {"subdir": "tests/dags"}),
        ({"depth": 3, "period": "12s", "wait": 4}, {"depth": "3", "period": "12"}),
        ({"wait": 4}, {"period": "4"}),
        ({"depth": 0}, {"depth": "0"}),
    ],
)
def test_git_sync_is_a_git_bundle(keys: Object, expected: Object) -> None:
    objects = render_chart(values=dags(gitSync={"enabled": True, "repo": HTTPS["repo"], **keys}))
    assert options(publisher(objects, "git-sync")).items() >= expected.items()
    assert [one["name"] for one in bundles(objects)] == ["dags-folder", "git-sync"]


def test_git_sync_with_a_key_or_a_token() -> None:
    objects = render_chart(values=dags(gitSync={"enabled": True, **SSH, "credentialsSecret": "token"}))
    volumes = {one["name"] for one in pod_spec(publisher(objects, "git-sync"))["volumes"]}
    assert volumes >= {"ssh", "credentials"}


def test_git_sync_that_is_off_makes_nothing() -> None:
    assert render_text(values=dags(gitSync={**SSH, "enabled": False})) == render_text()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dags(gitSync={"enabled": True}), "airflow.dags.gitSync.repo: is empty"),
        (
            dags(gitSync={"enabled": True, "repo": "git@h:x"}),
            "airflow.dags.gitSync.knownHosts: needed for git@h:x",
        ),
        (
            git(team={"repo": "ssh://h/x", "knownHosts": "h"}),
            "airflow.dags.git.bundles.team.sshKeySecret: needed",
        ),
        (
            git(team={"repo": "https://me:token@h/x"}),
            "airflow.dags.git.bundles.team.repo: holds a name or a token",
        ),
        (
            git(team={**HTTPS, "subPath": "../x"}),
            "airflow.dags.git.bundles.team.subPath: leaves the repository",
        ),
        (git(Team=HTTPS), "Team"),
        (git(team={**HTTPS, "branch": "x"}), "branch"),
        (
            dags(gitSync={"enabled": True, "repo": "https://x/y"}, git={"bundles": {"git-sync": HTTPS}}),
            "choose another name",
        ),
        (dags(persistence={"enabled": True}), "airflow.dags.persistence.enabled: nothing here writes"),
        (dags(image={"repository": ""}), "airflow.dags.image.repository: is empty"),
        (dags(image={"repository": "r" * 200}), "airflow.dags.image: the reference has over 200 characters"),
        (dags(image={"tag": ""}), "airflow.dags.image: set a tag or a digest"),
        (dags(image={"mount": "csi"}), "dags/image/mount"),
        (
            {
                "airflow": {
                    "dagProcessor": {"dagBundleConfigList": [{"name": "dags-folder", "classpath": "x"}]}
                }
            },
            "airflow.dagProcessor.dagBundleConfigList: the bundle dags-folder is there already",
        ),
        (
            {"airflow": {"config": {"dag_processor": {"dag_bundle_config_list": "[]"}}}},
            "airflow.config.dag_processor.dag_bundle_config_list: airflow.dags makes it",
        ),
    ],
)
def test_a_key_without_meaning_is_refused_with_the_reason(values: Object, message: str) -> None:
    with pytest.raises(ChartError) as refused:
        render_chart(values=deepcopy(values))
    assert message in str(refused.value)
