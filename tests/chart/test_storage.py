"""Claims: what they are like, and that something mounts each from the start."""

from __future__ import annotations

import pytest
from components import VARIANTS
from references import place
from render import POD_KINDS, Object, find, pod_spec, render_chart

# A CronJob or a worker pod comes later, if at all.
AT_INSTALL = POD_KINDS - {"CronJob", "Pod"}


def mounted(objects: list[Object]) -> set[tuple[str, str]]:
    """Namespace and name of the claims that a workload mounts as soon as it is there."""
    return {
        (one["metadata"]["namespace"], volume["persistentVolumeClaim"]["claimName"])
        for one in objects
        if one["kind"] in AT_INSTALL
        for volume in pod_spec(one).get("volumes", [])
        if "persistentVolumeClaim" in volume
    }


def claims(objects: list[Object]) -> set[tuple[str | None, str]]:
    return {place(one)[1:] for one in objects if one["kind"] == "PersistentVolumeClaim"}


@pytest.mark.parametrize("files", VARIANTS, ids=lambda files: "+".join(files) or "defaults")
def test_every_claim_is_mounted_at_once(files: tuple[str, ...]) -> None:
    """Else WaitForFirstConsumer leaves it unbound, and `helm install --wait` waits for ever."""
    objects = render_chart(files=files)
    assert claims(objects) and claims(objects) <= mounted(objects)


@pytest.mark.parametrize("off", ["airflow", "versitygw", "mlflow"])
def test_every_claim_is_mounted_where_a_part_is_off(off: str) -> None:
    values = {
        off: {"enabled": False},
        "training": {
            "trackingUri": "http://mlflow.example.com",
            "volumes": {"models": {"claimName": "models", "mountPath": "/models", "size": "1Gi"}},
        },
    }
    objects = render_chart(values=values)
    assert ("ml-training", "models") in claims(objects)
    assert claims(objects) <= mounted(objects)


def test_a_claim_that_is_there_already_is_left_alone() -> None:
    created = {name: {"create": False} for name in ("datasets", "checkpoints")}
    objects = render_chart(values={"training": {"volumes": created}, "versitygw": {"enabled": False}})
    assert not [one for one in claims(objects) | mounted(objects) if one[0] == "ml-training"]


@pytest.mark.parametrize("existing", ["airflow-logs", ""])
def test_the_logs_claim_is_as_the_official_keys_say(existing: str) -> None:
    persistence = {"size": "1.5Ti", "storageClassName": "-", "existingClaim": existing}
    objects = render_chart(values={"airflow": {"logs": {"persistence": persistence}}})
    claim = find(objects, "PersistentVolumeClaim", existing or "trainyard-logs")
    assert claim["spec"]["resources"]["requests"]["storage"] == "1.5Ti"
    assert claim["spec"]["storageClassName"] == ""
    assert claims(objects) <= mounted(objects)


def test_a_hyphen_is_a_claim_without_a_storage_class() -> None:
    """As in other charts; an empty text is the cluster's default."""
    none = {"persistence": {"storageClassName": "-"}}
    values = {
        "airflow": {
            "logs": none,
            "dags": {**none, "git": {"bundles": {"one": {"repo": "https://x.example.com/y"}}}},
        },
        "mlflow": {"artifacts": none},
        "postgresql": none,
        "training": {"volumes": {name: none["persistence"] for name in ("datasets", "checkpoints")}},
    }
    objects = render_chart(values=values)
    found = [one for one in objects if one["kind"] == "PersistentVolumeClaim"]
    found += find(objects, "StatefulSet", "trainyard-postgresql")["spec"]["volumeClaimTemplates"]
    assert len(found) == 6
    assert {one["spec"]["storageClassName"] for one in found} == {""}
    assert not [one for one in render_chart() if "storageClassName" in one.get("spec", {})]
