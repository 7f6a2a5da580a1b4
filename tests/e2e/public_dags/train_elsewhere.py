"""A DAG as public examples have it: it knows nothing of this platform, but for an image that is there."""

from airflow.providers.cncf.kubernetes.operators.job import KubernetesJobOperator
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG, Param, task
from kubernetes.client import models as k8s

SCRIPT = """
import json, os, pathlib, shutil
found = {"user": os.getuid(), "node": os.environ.get("NODE"), "shm": shutil.disk_usage("/dev/shm").total}
if pathlib.Path("/airflow/xcom").exists():
    pathlib.Path("/airflow/xcom/return.json").write_text(json.dumps(found))
print("trained")
"""
GPU = k8s.V1ResourceRequirements(limits={"nvidia.com/gpu": "1"})
ON_GPU_NODES = [k8s.V1Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")]
NODE = k8s.V1EnvVar(
    name="NODE",
    value_from=k8s.V1EnvVarSource(field_ref=k8s.V1ObjectFieldSelector(field_path="spec.nodeName")),
)

with DAG("train_elsewhere", schedule=None, params={"image": Param("pytorch/pytorch:2.6.0", type="string")}):
    common = {
        "image": "{{ params.image }}",
        "cmds": ["python", "-c"],
        "arguments": [SCRIPT],
        "container_resources": GPU,
        "tolerations": ON_GPU_NODES,
        "env_vars": [NODE],
    }
    pod = KubernetesPodOperator(
        task_id="pod", name="train", namespace="default", get_logs=True, do_xcom_push=True, **common
    )
    deferred = KubernetesPodOperator(
        task_id="deferred", name="train", deferrable=True, do_xcom_push=True, **common
    )
    job = KubernetesJobOperator(
        task_id="job", name="train", wait_until_job_complete=True, do_xcom_push=False, **common
    )

    @task
    def told(result):
        return result["node"]

    told(pod.output) >> [deferred, job]
