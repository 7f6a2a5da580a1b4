"""The embedded object store: the same bytes are objects to S3 clients and files to training pods.

And large XComs, which are files that every Airflow pod can read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import S3_PRELUDE, run_python
from kubernetes import client
from pods import scratch, scratch_pod, wait_until

POD = "scratch-object-store"
BUCKET = "incoming"
FOLDER = f"e2e-{time.strftime('%Y%m%d-%H%M%S')}"
MEBIBYTE = 1 << 20

Python = Callable[[str], Any]


@pytest.fixture(scope="module")
def s3(in_component: Callable[[str, str], Any]) -> Python:
    """Runs Python in the api-server, the one that holds the connection, with its S3 hook as `hook`."""
    names = f"bucket, folder = {BUCKET!r}, {FOLDER!r}\n"
    return lambda script: in_component("api-server", S3_PRELUDE + names + script)


@pytest.fixture(scope="module")
def training_pod(core: client.CoreV1Api, platform: dict[str, Any]) -> Iterator[Python]:
    """Runs Python in a pod like training pods, on another node than the object store's, datasets writable."""
    training = platform["training"]
    datasets = training["volumes"]["datasets"]
    spot = platform["pools"]["spot"]
    container = {
        "name": "base",
        "imagePullPolicy": training["imagePullPolicy"],
        "command": ["sleep", "600"],
        "resources": training["resources"]["cpu"],
        "volumeMounts": [{"name": "datasets", "mountPath": datasets["mountPath"]}],
    }
    pod = scratch_pod(
        training,
        POD,
        container,
        serviceAccountName=training["serviceAccountName"],
        nodeSelector=spot["nodeSelector"],
        tolerations=spot["tolerations"],
        volumes=[{"name": "datasets", "persistentVolumeClaim": {"claimName": datasets["claimName"]}}],
    )
    prelude = (
        "import json, shutil\n"
        "from pathlib import Path\n"
        f"folder = Path({datasets['mountPath']!r}, {BUCKET!r}, {FOLDER!r})\n"
    )

    def running() -> bool:
        return core.read_namespaced_pod(POD, training["namespace"]).status.phase == "Running"

    def _run(script: str) -> Any:
        return run_python(core, training["namespace"], POD, "base", prelude + script)

    with scratch(core, pod, training["namespace"]):
        wait_until(f"pod {POD} to run", running)
        yield _run
        _run("shutil.rmtree(folder); print('true')")


def test_a_file_of_a_training_pod_is_an_object(s3: Python, training_pod: Python) -> None:
    size = training_pod(
        "folder.mkdir(parents=True)\n"
        f"(folder / 'large.bin').write_bytes(bytes(20 * {MEBIBYTE}))\n"
        "(folder / '_SUCCESS').touch()\n"
        "print((folder / 'large.bin').stat().st_size)"
    )
    assert s3("print(json.dumps(hook.list_keys(bucket, prefix=folder + '/')))") == [
        f"{FOLDER}/_SUCCESS",
        f"{FOLDER}/large.bin",
    ]
    found = "hook.get_key(f'{folder}/large.bin', bucket)"
    assert s3(f"print(len({found}.get()['Body'].read()))") == size == 20 * MEBIBYTE
    assert s3("print(json.dumps(hook.check_for_key(f'{folder}/_SUCCESS', bucket)))") is True
    assert s3("print(json.dumps(hook.check_for_key(f'{folder}/nothing', bucket)))") is False


def test_an_uploaded_object_is_a_file_that_a_training_pod_may_change(
    s3: Python, training_pod: Python
) -> None:
    """In parts, as clients send what is larger than 8 MiB."""
    s3(
        "import io\n"
        f"content = io.BytesIO(b'x' * 20 * {MEBIBYTE})\n"
        "hook.load_file_obj(content, f'{folder}/day/part.csv', bucket)\n"
        "print('true')"
    )
    file = "folder / 'day' / 'part.csv'"
    assert training_pod(f"print(({file}).stat().st_size)") == 20 * MEBIBYTE
    training_pod(f"({file}).write_text('changed'); (folder / 'day' / 'more').touch(); print('true')")
    assert s3("print(json.dumps(hook.read_key(f'{folder}/day/part.csv', bucket)))") == "changed"
    s3("hook.delete_objects(bucket, [f'{folder}/day/part.csv']); print('true')")
    assert training_pod(f"print(json.dumps(({file}).exists()))") is False


def test_nothing_else_of_the_volume_is_served(s3: Python) -> None:
    assert s3("print(json.dumps([each['Name'] for each in hook.conn.list_buckets()['Buckets']]))") == [BUCKET]
    refused = s3(
        "from botocore.exceptions import ClientError\n"
        "try:\n"
        "    hook.create_bucket('e2e-other')\n"
        "    print('\"made\"')\n"
        "except ClientError as error:\n"
        "    print(json.dumps(str(error)))"
    )
    assert "CreateBucket" in refused


def test_without_its_keys_nobody_gets_in(s3: Python) -> None:
    status = s3(
        "import urllib.error, urllib.request\n"
        "try:\n"
        "    urllib.request.urlopen(f'{hook.conn.meta.endpoint_url}/{bucket}')\n"
        "except urllib.error.HTTPError as error:\n"
        "    print(error.code)"
    )
    assert status == 403


def test_a_large_xcom_of_one_pod_is_read_by_another(in_component: Callable[[str, str], Any]) -> None:
    stored = in_component(
        "triggerer",
        "import json\n"
        "from airflow.sdk.execution_time.xcom import XCom\n"
        f"coordinates = dict(key='k', task_id='t', dag_id='e2e', run_id={FOLDER!r})\n"
        "print(json.dumps(XCom.serialize_value('x' * 102_400, **coordinates)))",
    )
    assert len(stored) < 256
    size = in_component(
        "dag-processor",
        "from pathlib import Path\n"
        "from types import SimpleNamespace\n"
        "from airflow.sdk.execution_time.xcom import XCom\n"
        f"value = XCom.deserialize_value(SimpleNamespace(value={stored!r}))\n"
        f"Path({stored.removeprefix('file://')!r}).unlink()\n"
        "print(len(value))",
    )
    assert size == 102_400
