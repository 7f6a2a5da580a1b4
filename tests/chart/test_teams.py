"""Teams: each has what the training namespace has, its part of the pools, and nothing of another team's."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from references import References
from render import (
    ChartError,
    Object,
    containers,
    environment,
    find,
    platform,
    pod_spec,
    render_chart,
    wanted_secrets,
)
from test_rights import rights

VISION, TEXT, NOBODY = "ml-vision", "ml-text", "ml-training"
TEAMS: Object = {
    "queues": {"kueue": {"enabled": True}},
    "gpuPools": {"ondemand": {"nodes": {"max": 4}}},
    "teams": {
        "vision": {
            "namespace": VISION,
            "dags": ["vision_*", "segment"],
            "gpus": {"ondemand": {"own": 2, "borrow": 1, "lend": 0}, "spot": {"own": 1}},
            "weight": 3,
            "priorityClassNames": ["trainyard-training", "trainyard-spot"],
            "quota": {"requests.cpu": 64},
            "serviceAccountAnnotations": {"cloud": "vision"},
            "readers": ["oidc:vision"],
            "airflowRole": "Vision",
        },
        "text": {"namespace": TEXT, "dags": ["text_training"]},
    },
}
READER = "trainyard-training-reader"


def inside(objects: list[Object], namespace: str) -> dict[tuple[str, str], Object]:
    """What a namespace has, by kind and name, without what says whose it is."""
    found = {}
    for one in objects:
        if one["metadata"].get("namespace") == namespace:
            told = json.dumps(one).replace(f"training-{namespace.removeprefix('ml-')}", "training")
            one = json.loads(told.replace(namespace, "HERE"))
            name = re.sub("(?<=-training-volumes)-.*", "", one["metadata"]["name"])  # which ends in a hash
            found[one["kind"], name] = one
    return found


def test_each_team_has_what_the_training_namespace_has() -> None:
    objects = render_chart(values=TEAMS)
    store = ("trainyard-versitygw", "trainyard-net-versitygw")
    training = {key: one for key, one in inside(objects, NOBODY).items() if key[1] not in store}
    # The Role reads what Secrets are composed of, and the policy leaves out the store's pods.
    own = {
        ("Job", "trainyard-training-volumes"),  # of a priority that a team's Jobs may have
        *(("LocalQueue", pool) for pool in ("ondemand", "spot")),
        ("Role", "trainyard-bootstrap-secrets"),
        ("NetworkPolicy", "trainyard-net-training"),
    }
    text = inside(objects, TEXT)
    assert text.keys() == training.keys()
    assert {key for key in training if text[key] != training[key]} == own
    vision = inside(objects, VISION)
    assert vision.keys() == training.keys() | {("Role", READER), ("RoleBinding", READER)}
    of_its_own = {("ResourceQuota", "trainyard-training"), ("ServiceAccount", "trainer")}
    assert {key for key in training if vision[key] != training[key]} == own | of_its_own
    assert vision["ServiceAccount", "trainer"]["metadata"]["annotations"] == {"cloud": "vision"}
    assert vision["ResourceQuota", "trainyard-training"]["spec"]["hard"] == {"requests.cpu": "64"}


def test_a_namespace_tells_whose_it_is_and_stays() -> None:
    objects = render_chart(values=TEAMS)
    (vision, training) = (find(objects, "Namespace", name)["metadata"] for name in (VISION, NOBODY))
    assert vision["labels"] == {**training["labels"], "trainyard.dev/team": "vision"}
    assert vision["annotations"] == training["annotations"]
    values = {"teams": {"text": {"namespace": TEXT, "dags": [], "createNamespace": False}}}
    assert ("Namespace", TEXT) not in {
        (one["kind"], one["metadata"]["name"]) for one in render_chart(values=values)
    }


def test_the_dags_of_a_team_are_told() -> None:
    told = platform(render_chart(values=TEAMS))
    assert told["teams"] == {
        "vision": {"namespace": VISION, "dags": ["vision_*", "segment"], "airflowRole": "Vision"},
        "text": {"namespace": TEXT, "dags": ["text_training"]},
    }
    assert "teams" not in platform(render_chart())


def shares(objects: list[Object]) -> dict[tuple[str, str], Any]:
    """What of a pool's GPUs whoever trains in a namespace may have, by namespace and pool."""
    found = {}
    for one in objects:
        if one["kind"] == "LocalQueue":
            place = one["metadata"]["namespace"]
            spec = find(objects, "ClusterQueue", one["spec"]["clusterQueue"])["spec"]
            assert spec["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": place}}
            (group,) = spec["resourceGroups"]
            (flavor,) = group["flavors"]
            assert spec.get("cohortName", flavor["name"]) == flavor["name"]
            (resource,) = flavor["resources"]
            found[place, one["metadata"]["name"]] = {key: resource[key] for key in resource if key != "name"}
    return found


def test_what_no_team_owns_is_had_by_whoever_is_in_none() -> None:
    assert shares(render_chart(values=TEAMS)) == {
        (NOBODY, "ondemand"): {"nominalQuota": "2"},
        (VISION, "ondemand"): {"nominalQuota": "2", "borrowingLimit": "1", "lendingLimit": "0"},
        (TEXT, "ondemand"): {"nominalQuota": "0"},
        (NOBODY, "spot"): {"nominalQuota": "0"},
        (VISION, "spot"): {"nominalQuota": "1"},
        (TEXT, "spot"): {"nominalQuota": "0"},
    }


def test_teams_lend_each_other_gpus_and_get_them_back() -> None:
    objects = render_chart(values=TEAMS)
    queues = [one for one in objects if one["kind"] == "ClusterQueue"]
    assert {one["spec"]["preemption"]["reclaimWithinCohort"] for one in queues} == {"Any"}
    weights = {
        one["metadata"]["name"].partition("ondemand")[2]: one["spec"]["fairSharing"]["weight"]
        for one in queues
        if "ondemand" in one["metadata"]["name"]
    }
    assert weights == {"": "1", ".vision": "3", ".text": "1"}
    alone = render_chart(values={"queues": TEAMS["queues"]})
    told = json.dumps([one for one in alone if one["kind"] == "ClusterQueue"])
    assert not [word for word in ("cohortName", "fairSharing", "reclaimWithinCohort") if word in told]


def test_a_team_s_pods_reach_each_other_and_no_other_team_s() -> None:
    objects = render_chart(values=TEAMS)
    for team, namespace in (("vision", VISION), ("text", TEXT)):
        spec = find(objects, "NetworkPolicy", f"trainyard-net-training-{team}")["spec"]
        told = json.dumps(spec)
        assert spec["podSelector"] == {}
        assert namespace in told
        assert not [other for other in {VISION, TEXT, NOBODY} - {namespace} if other in told]
        mlflow = find(objects, "NetworkPolicy", "trainyard-net-mlflow")["spec"]["ingress"]
        assert namespace in json.dumps(mlflow)


def test_what_the_launchers_may_do_is_the_same_everywhere() -> None:
    values = {**TEAMS, "teams": {"text": TEAMS["teams"]["text"]}}
    for account, spaces in rights(render_chart(values=values)).items():
        if "bootstrap" not in account and NOBODY in spaces:
            assert spaces[TEXT] == spaces[NOBODY], account


def test_readers_see_their_team_s_namespace_alone() -> None:
    objects = render_chart(values=TEAMS)
    bindings = [one for one in objects if one["kind"] == "RoleBinding"]
    (binding,) = (one for one in bindings if "Group" in {each["kind"] for each in one["subjects"]})
    assert (binding["metadata"]["namespace"], binding["roleRef"]["name"]) == (VISION, READER)
    assert [one["name"] for one in binding["subjects"]] == ["oidc:vision"]
    rules = find(objects, "Role", READER)["rules"]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert "secrets" not in {resource for rule in rules for resource in rule["resources"]}


def test_a_queue_cannot_be_passed_in_any_team_s_namespace() -> None:
    objects = render_chart(values=TEAMS)
    for name in ("pods", "jobs"):
        policy = find(objects, "ValidatingAdmissionPolicy", f"trainyard-trainyard-queued-{name}")
        (where,) = policy["spec"]["matchConstraints"]["namespaceSelector"]["matchExpressions"]
        assert where["values"] == [NOBODY, TEXT, VISION]


def test_a_team_s_jobs_have_its_priorities_alone() -> None:
    objects = render_chart(values=TEAMS)
    spec = find(objects, "ValidatingAdmissionPolicy", "trainyard-trainyard-priorities-vision")["spec"]
    (where,) = spec["matchConstraints"]["namespaceSelector"]["matchExpressions"]
    assert where["values"] == [VISION]
    (rule,) = spec["validations"]
    assert '["trainyard-training","trainyard-spot"]' in rule["expression"]
    for one in objects:
        if one["kind"] == "Job" and one["metadata"]["namespace"] == VISION:
            own = one["spec"]["template"]["spec"]["priorityClassName"]
            assert own in TEAMS["teams"]["vision"]["priorityClassNames"], one["metadata"]["name"]
    assert "teams.vision.priorityClassNames" in rule["message"]
    names = {one["metadata"]["name"] for one in objects if one["kind"] == "ValidatingAdmissionPolicy"}
    assert "trainyard-trainyard-priorities-text" not in names


def test_nothing_refers_to_what_is_not_there() -> None:
    assert References(render_chart(values=TEAMS)).check() == []


def test_a_team_s_pods_have_an_account_of_their_own_in_mlflow() -> None:
    objects = render_chart(values=TEAMS)
    made = wanted_secrets(objects)
    for namespace, account in ((NOBODY, "trainer"), (VISION, "trainer-vision"), (TEXT, "trainer-text")):
        # The same name everywhere, as the platform file tells one.
        file = made[f"{namespace}/trainyard-mlflow-login-trainer"]
        own = f"{{trainyard-mlflow-login-{account}/password}}"
        text = f"[mlflow]\nmlflow_tracking_username = {account}\nmlflow_tracking_password = {own}\n"
        assert file == {"credentials": {"template": text}}
        assert made[f"trainyard-mlflow-login-{account}"] == {
            "username": {"value": account},
            "password": {"generate": "password", "credential": "mlflow"},
        }
    volumes = platform(objects)["training"]["pod"]["extraVolumes"]
    assert [one["secret"]["secretName"] for one in volumes] == ["trainyard-mlflow-login-trainer"]


def test_mlflow_knows_whose_an_experiment_is() -> None:
    server = pod_spec(find(render_chart(values=TEAMS), "Deployment", "trainyard-mlflow"))
    (container,), (prepare,) = server["containers"], server["initContainers"]
    dags = {f"trainer-{name}": team["dags"] for name, team in TEAMS["teams"].items()}
    assert json.loads(environment(container)["TEAMS"]) == {"trainer": [], **dags}
    accounts = json.loads(environment(prepare)["ACCOUNTS"])
    others = {"admin": "admin", "promoter": "promoter", "serving": "viewer"}
    assert accounts == {**others, **dict.fromkeys(("trainer", *dags), "team-trainer")}
    (passwords,) = (one for one in server["volumes"] if one["name"] == "accounts")
    read = {one["secret"]["name"] for one in passwords["projected"]["sources"]}
    assert read == {f"trainyard-mlflow-login-{name}" for name in accounts}


def test_mlflow_is_not_divided_without_teams_or_without_a_login() -> None:
    for values in ({}, {**TEAMS, "mlflow": {"auth": {"enabled": False}}}):
        objects = render_chart(values=values)
        server = find(objects, "Deployment", "trainyard-mlflow")
        assert not [one for one in containers(server) if "TEAMS" in environment(one)]
        assert not [name for name in wanted_secrets(objects) if "login-trainer-" in name]


def test_a_bucket_of_the_embedded_store_is_reached_from_every_team() -> None:
    bucket = {"training": {"volumes": {"datasets": {"uri": "s3://data/sets"}}}}
    values = {**TEAMS, **bucket, "versitygw": {"enabled": True, "buckets": ["data"]}}
    objects = render_chart(values=values)
    (job,) = (one for one in objects if one["metadata"]["name"].startswith("trainyard-bootstrap-secrets-"))
    (env,) = job["spec"]["template"]["spec"]["containers"][0]["env"]
    wanted = json.loads(env["value"])
    for namespace in (TEXT, VISION):
        copied = wanted[f"{namespace}/trainyard-training-s3"]["AWS_SECRET_ACCESS_KEY"]
        assert copied == {"template": f"{{{NOBODY}/trainyard-training-s3/AWS_SECRET_ACCESS_KEY}}"}
        store = find(objects, "NetworkPolicy", "trainyard-net-versitygw")["spec"]["ingress"]
        assert namespace in json.dumps(store)


def test_without_a_queue_a_team_still_has_its_namespace() -> None:
    objects = render_chart(values={"teams": {"text": TEAMS["teams"]["text"]}})
    claims = {("PersistentVolumeClaim", name) for name in ("datasets", "checkpoints")}
    assert claims <= inside(objects, TEXT).keys()
    assert not [one for one in objects if "kueue" in one["apiVersion"]]


def job_of_roles(**values: Any) -> Object:
    return environment(containers(find(render_chart(values=values), "Job", "trainyard-airflow-pools"))[0])


def test_a_job_makes_the_roles_of_teams() -> None:
    env = job_of_roles(**TEAMS)
    assert json.loads(env["ROLES"]) == ["Vision"]
    assert json.loads(env["POOLS"])
    without_pools = {"vision": {**TEAMS["teams"]["vision"], "gpus": None}}
    env = job_of_roles(teams=without_pools, gpuPools=None)
    assert (json.loads(env["ROLES"]), json.loads(env["POOLS"])) == (["Vision"], [])
    assert "ROLES" not in job_of_roles(teams={"text": TEAMS["teams"]["text"]})


@pytest.mark.parametrize(
    "airflow",
    [
        {"config": {"core": {"auth_manager": "mine.MyFabAuthManager"}}},
        {"env": [{"name": "AIRFLOW__CORE__AUTH_MANAGER", "value": "mine.MyFabAuthManager"}]},
        {
            "env": [
                {
                    "name": "AIRFLOW__CORE__AUTH_MANAGER",
                    "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}},
                }
            ]
        },
    ],
)
def test_roles_are_those_of_whatever_airflow_takes_for_the_fab_manager(airflow: Object) -> None:
    assert job_of_roles(**TEAMS, airflow=airflow)["ROLES"]


def test_a_name_of_the_users_is_not_taken_for_a_key_of_the_chart() -> None:
    """Checks of well-known keys, such as `quota`, are not for what is merely called so."""
    gpus = {"quota": {"own": 1}, "strategy": {"own": 1}}
    kind = {"gpuType": "a", "resourceName": "nvidia.com/gpu", "spot": False, "costPerGpuHour": 1}
    pool = {**kind, "gpusPerNode": 1, "nodes": {"max": 1}}
    values: Object = {
        "queues": {"kueue": {"enabled": True}},
        "gpuPools": {"quota": pool, "strategy": pool},
        "teams": {"labels": {"namespace": "ml-labels", "dags": [], "gpus": gpus}, "annotations": None},
        "priorityClasses": {"labels": {"enabled": True, "value": 7, "description": "d"}},
    }
    assert platform(render_chart(values=values))["teams"].keys() == {"labels"}
    wrong = {**values, "teams": {"quota": {"namespace": "ml-quota", "dags": [], "quota": {"pods": "many"}}}}
    with pytest.raises(ChartError, match=r'teams\.quota\.quota\.pods: "many" is no quantity'):
        render_chart(values=wrong)
