"""The platform with values/object-storage.yaml: nothing of it is on a volume that pods share.

It becomes the release for the time of these tests, and is as before afterwards.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from conftest import DAG, ROOT, S3_PRELUDE, Run, metric_steps, run_tags, up, wait_for_log
from kubernetes import client
from pods import PodRecorder, epochs_done, wait_until

pytestmark = [pytest.mark.alone, pytest.mark.nightly]

EPOCHS = 30


@pytest.fixture(scope="module", autouse=True)
def in_object_storage(airflow, core: client.CoreV1Api) -> Iterator[None]:
    """The release with all data in the embedded object store."""
    before = datetime.now(UTC).isoformat()
    up("--take-ownership", "--values", ROOT / "values/object-storage.yaml")
    airflow.wait_for_dag(DAG, parsed_after=before)
    yield
    before = datetime.now(UTC).isoformat()
    # The claims that come back may be Argo CD's.
    up("--take-ownership")
    airflow.wait_for_dag(DAG, parsed_after=before)
    # Helm keeps claims, and nothing else would know this one.
    core.delete_namespaced_persistent_volume_claim("trainyard-versitygw", "ml-training")


@pytest.fixture(scope="module")
def s3(in_component: Callable[[str, str], Any]) -> Callable[[str], Any]:
    """Evaluates an expression in the api-server, with Airflow's S3 hook as `hook`."""
    return lambda expression: in_component("api-server", f"{S3_PRELUDE}print(json.dumps({expression}))")


@pytest.fixture(scope="module")
def killed_run(trigger, finish, recorder: PodRecorder, core: client.CoreV1Api) -> Run:
    """A run whose train pod is killed as soon as there are two checkpoints."""
    run_id = trigger("s3-killed", epochs=EPOCHS, epoch_seconds=1)
    pod = recorder.wait_for_running(run_id, seconds=240)
    wait_until("two checkpoints", lambda: epochs_done(core, pod) > 4, seconds=120)
    core.delete_namespaced_pod(pod["metadata"]["name"], pod["metadata"]["namespace"], grace_period_seconds=0)
    return finish(run_id)


def test_a_killed_training_resumes_from_its_checkpoint_in_s3(
    killed_run: Run, versions, mlflow, s3: Callable[[str], Any]
) -> None:
    assert killed_run.state == "success", killed_run.tasks
    assert killed_run.tasks["train"]["try_number"] == 1
    (version,) = versions(killed_run.run_id)
    tags = run_tags(mlflow, version.run_id)
    assert 4 <= int(tags["trainyard.resumed_from_epoch"]) < EPOCHS
    assert metric_steps(mlflow, version.run_id, "val_f1_macro") == list(range(1, EPOCHS + 1))
    assert tags["trainyard.data"].startswith("s3://training/datasets/processed/digits/date=")
    # The run is over: the lake keeps its data, the checkpoints are gone.
    key = tags["trainyard.data"].removeprefix("s3://training/")
    assert s3(f"hook.check_for_key({key!r} + '/manifest.json', 'training')") is True
    prefix = f"checkpoints/{DAG}__{killed_run.run_id}/"
    assert s3(f"hook.list_keys('training', prefix={prefix!r})") == []


def test_training_pods_mount_scratch_and_their_login_alone(killed_run: Run, recorder: PodRecorder) -> None:
    for task in ("validate", "preprocess", "train", "evaluate", "clean_up"):
        for pod in recorder.of_task(killed_run.run_id, task):
            kinds = {next(iter(volume.keys() - {"name"})) for volume in pod["spec"]["volumes"]}
            assert kinds == {"emptyDir", "secret"}, task


def test_the_model_is_in_s3(killed_run: Run, s3: Callable[[str], Any]) -> None:
    assert [key for key in s3("hook.list_keys('mlflow', prefix='artifacts/')") if key.endswith("model.pth")]


def test_the_log_of_a_finished_worker_pod_is_read_from_s3(
    trigger, finish, recorder: PodRecorder, airflow, s3: Callable[[str], Any]
) -> None:
    """Of a sensor, which runs on a worker."""
    dag, task = "batch_inference", "wait_for_arrival"
    run_id = trigger("s3-worker", dag=dag, data_date="2026-01-01")
    finish(run_id, dag=dag)
    (worker,) = recorder.of_task(run_id, task)
    wait_until("the worker pod to go", lambda: recorder.is_gone(worker), seconds=180)
    keys = s3(f"hook.list_keys('airflow', prefix='logs/dag_id={dag}/run_id={run_id}/task_id={task}/')")
    (own,) = (key for key in keys if key.endswith("attempt=1.log"))
    stored = [json.loads(line) for line in s3(f"hook.read_key({own!r}, 'airflow')").splitlines()]
    shown = {str(line["event"]) for line in airflow.log(dag, run_id, task, 1)}
    assert stored and {str(line["event"]) for line in stored} <= shown


def test_the_log_of_a_training_pod_is_read_from_s3(killed_run: Run, airflow) -> None:
    """It is the triggerer's, which copies the pod's."""
    wait_for_log(airflow, DAG, killed_run.run_id, "train", "epoch")


def test_a_large_xcom_is_an_object(in_component: Callable[[str, str], Any]) -> None:
    stored = in_component(
        "triggerer",
        "import json\n"
        "from airflow.sdk.execution_time.xcom import XCom\n"
        "place = dict(key='k', task_id='t', dag_id='e2e', run_id='r')\n"
        "print(json.dumps(XCom.serialize_value('x' * 102_400, **place)))",
    )
    assert stored.strip('"').startswith("s3://trainyard_s3@airflow/xcom/")
    size = in_component(
        "api-server",
        "from types import SimpleNamespace\n"
        "from airflow.sdk.execution_time.xcom import XCom\n"
        f"print(len(XCom.deserialize_value(SimpleNamespace(value={stored!r}))))",
    )
    assert size == 102_400


@pytest.mark.parametrize("account", ["training", "mlflow"])
def test_an_account_sees_its_own_bucket_and_no_other(
    account: str, core: client.CoreV1Api, in_component: Callable[[str, str], Any]
) -> None:
    data = core.read_namespaced_secret(f"trainyard-{account}-s3", "ml-training").data
    keys = {name: base64.b64decode(value).decode() for name, value in data.items()}
    seen = in_component(
        "api-server",
        f"import json, os\nos.environ.update({keys!r})\n"
        "import boto3\nfrom botocore.exceptions import ClientError\n"
        "client, seen = boto3.client('s3'), {}\n"
        "for bucket in ('training', 'airflow', 'mlflow'):\n"
        "    try:\n"
        "        client.list_objects_v2(Bucket=bucket)\n"
        "        seen[bucket] = 'listed'\n"
        "    except ClientError as error:\n"
        "        seen[bucket] = error.response['Error']['Code']\n"
        "print(json.dumps(seen))",
    )
    assert seen == {
        bucket: "listed" if bucket == account else "AccessDenied"
        for bucket in ("training", "airflow", "mlflow")
    }
