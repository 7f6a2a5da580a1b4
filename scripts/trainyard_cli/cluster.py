"""The kind cluster: one control plane, one CPU worker, and workers for each GPU pool declared in values."""

import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from . import chart, host, node_image, paths, toolchain
from .errors import CliError
from .shell import run
from .stages import Stage

Json = dict[str, Any]

NAME = "trainyard"
CONFIG = paths.STATE / "kind.yaml"
"""The configuration of the cluster that was made last; absent while none is complete."""
SHARED_VOLUMES = paths.ROOT / "manifests/kind/shared-volumes.yaml"

CONTROL_PLANE = "control-plane"
CPU = "cpu"
ROLE_LABEL = "trainyard.dev/role"

NODE_PORTS = {"airflow": 30080, "mlflow": 30500}
DNS_PODS = ("-l", "k8s-app=kube-dns")
CREATE_SECONDS = 400
READY_SECONDS = 120
RESTART_SECONDS = 90
HEARTBEAT_SECONDS = 30
STOP_SECONDS = 10
# Every node watches many files; the usual limits are for one machine.
INOTIFY_LIMITS = {"max_user_instances": 1024, "max_user_watches": 524288}


@dataclass(frozen=True)
class Ports:
    """Ports of this machine's loopback interface, by what answers there."""

    airflow: int = 8080
    mlflow: int = 5000


@dataclass(frozen=True)
class Cluster:
    """A running cluster. ``nodes`` maps "control-plane", "cpu" and each pool's name to node containers."""

    name: str
    kubeconfig: Path
    nodes: dict[str, list[str]] = field(default_factory=dict)

    def kubectl(self, tools: toolchain.Tools) -> list[str | Path]:
        """Return the words that a kubectl command for this cluster begins with."""
        return [tools.kubectl, "--kubeconfig", self.kubeconfig]


def ensure(stage: Stage, ports: Ports, values: Iterable[Path] = (), *, remake: bool = False) -> Cluster:
    """Return the cluster that values and ``ports`` ask for: as it runs, started again, or made.

    ``values`` are files over the project's own: their gpuPools decide on the nodes. A cluster that cannot
    stay as it is holds somebody's runs and models: CliError then, unless ``remake`` gives them up.
    """
    tools = toolchain.ensure(stage)
    pools = chart.gpu_pools(tools.helm, values)
    paths.SHARED_VOLUMES.mkdir(parents=True, exist_ok=True)
    image = node_image.ensure(stage)
    config = kind_config(pools, image, ports)
    cluster = Cluster(NAME, paths.KUBECONFIG, node_names(pools))
    complete = CONFIG.is_file() and bool(_containers())
    problem = _reuse(stage, tools, config, cluster) if complete else "there is none"
    if problem and complete and not remake:
        message = f"the cluster cannot stay as it is: {problem}"
        raise CliError(message, "./scripts/up --remake recreates it; its runs and models are lost")
    if problem:
        _create(stage, tools, config, cluster)
    return cluster


def delete(stage: Stage, shared_volumes: bool = False) -> None:
    """Delete the cluster and its files; with ``shared_volumes`` also the data of the RWX volumes."""
    containers = list(_containers())
    if containers:
        stage.update(f"deleting {len(containers)} nodes")
        # Killed while it makes a pod, a node may leave a process behind that cgroup v1 has frozen and that
        # nothing ends then: so each is shut down first.
        run([host.docker(), "stop", "--time", str(STOP_SECONDS), *containers], check=False)
        run([host.docker(), "rm", "-f", "-v", *containers])
    for file in (CONFIG, paths.KUBECONFIG):
        file.unlink(missing_ok=True)
    if shared_volumes and paths.SHARED_VOLUMES.exists():
        stage.update("deleting the shared volumes")
        try:
            shutil.rmtree(paths.SHARED_VOLUMES)
        except PermissionError as error:
            raise CliError(
                f"{error.filename} was written by a pod and belongs to another user",
                f"sudo rm -rf {paths.SHARED_VOLUMES}",
            ) from error


def chosen_ports(airflow: int | None, mlflow: int | None) -> Ports:
    """Return the given ports, for those not given the present cluster's, without one the usual ones."""
    present = ports() if CONFIG.is_file() else Ports()
    return Ports(airflow or present.airflow, mlflow or present.mlflow)


def ports() -> Ports:
    """Return the ports that the cluster made last was given."""
    if not CONFIG.is_file():
        raise CliError("there is no cluster", "./scripts/up makes one")
    mappings = yaml.safe_load(CONFIG.read_text())["nodes"][0]["extraPortMappings"]
    host_ports = {each["containerPort"]: each["hostPort"] for each in mappings}
    return Ports(**{name: host_ports[port] for name, port in NODE_PORTS.items()})


def check_names(pools: Iterable[str]) -> None:
    """Refuse a pool that is named as another kind of node here.

    The chart takes such names: outside kind nothing else is called so, and a pool may have the name.
    """
    for name in {CONTROL_PLANE, CPU} & set(pools):
        message = f"values: gpuPools.{name} is no pool name on kind: {name} names another kind of node"
        raise CliError(message, "give the pool another name")


def kind_config(pools: dict[str, Json], image: str, ports: Ports) -> Json:
    """Return kind's configuration for ``pools``, which the chart has rendered."""
    workers: list[Json] = [{"labels": {ROLE_LABEL: CPU}}]
    for _, pool in sorted(pools.items()):
        join = {"kind": "JoinConfiguration", "nodeRegistration": {"taints": pool["taints"]}}
        node = {"labels": pool["nodeLabels"], "kubeadmConfigPatches": [yaml.safe_dump(join)]}
        workers += [node] * pool["kindNodes"]
    mount = {"hostPath": str(paths.SHARED_VOLUMES), "containerPath": paths.NODE_SHARED_VOLUMES}
    forwarded = [
        {"containerPort": node_port, "hostPort": getattr(ports, name), "listenAddress": "127.0.0.1"}
        for name, node_port in NODE_PORTS.items()
    ]
    # The kubelet refuses cgroup v1 by default; kind works on such hosts all the same.
    kubelet = {"kind": "KubeletConfiguration", "failCgroupV1": False}
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": NAME,
        "kubeadmConfigPatches": [yaml.safe_dump(kubelet)],
        "nodes": [
            {"role": CONTROL_PLANE, "image": image, "extraPortMappings": forwarded},
            *({"role": "worker", "image": image, "extraMounts": [mount], **worker} for worker in workers),
        ],
    }


def node_names(pools: dict[str, Json]) -> dict[str, list[str]]:
    """Return the containers of the nodes in ``kind_config``, named as kind names them."""
    groups = {CPU: 1, **{name: pool["kindNodes"] for name, pool in sorted(pools.items())}}
    names: dict[str, list[str]] = {CONTROL_PLANE: [f"{NAME}-control-plane"]}
    number = 0
    for group, count in groups.items():
        names[group] = []
        for _ in range(count):
            number += 1
            names[group].append(f"{NAME}-worker{number if number > 1 else ''}")
    return names


def shared_volumes(values: Json) -> list[Json]:
    """Return the objects of the volumes that pods on several nodes share; each team has those of training."""
    manifests: list[Json] = list(yaml.safe_load_all(SHARED_VOLUMES.read_text()))
    claims = [one for one in manifests if one["kind"] == "PersistentVolume"]
    of_training = [one for one in claims if one["spec"]["claimRef"]["name"] in values["training"]["volumes"]]
    for team in (values.get("teams") or {}).values():
        manifests += [_in_namespace(volume, team["namespace"]) for volume in of_training]
    return manifests


def _in_namespace(volume: Json, namespace: str) -> Json:
    """Return a volume like this one for the claim of the same name in another namespace."""
    spec = volume["spec"]
    name = f"{namespace}-{spec['claimRef']['name']}"
    path = f"{paths.NODE_SHARED_VOLUMES}/{name}"
    own = {
        "claimRef": {**spec["claimRef"], "namespace": namespace},
        "hostPath": {**spec["hostPath"], "path": path},
    }
    return {**volume, "metadata": {"name": name}, "spec": {**spec, **own}}


def make_shared_directories(volumes: Iterable[Json]) -> None:
    """Make the directory of every shared volume, writable for the pods' users."""
    for volume in volumes:
        in_node = Path(volume["spec"]["hostPath"]["path"])
        directory = paths.SHARED_VOLUMES / in_node.relative_to(paths.NODE_SHARED_VOLUMES)
        if not directory.is_dir():
            directory.mkdir(parents=True)
            directory.chmod(0o777)


def _containers() -> dict[str, str]:
    """Return the state ("running", "exited" ...) of each of the cluster's containers, the oldest first."""
    command = [host.docker(), "ps", "-a", "--filter", f"label=io.x-k8s.kind.cluster={NAME}"]
    lines = run([*command, "--format", "{{.Names}} {{.State}}"]).stdout.splitlines()
    return dict(line.split(maxsplit=1) for line in reversed(lines))


def _reuse(stage: Stage, tools: toolchain.Tools, config: Json, cluster: Cluster) -> str:
    """Return "" when the cluster is as ``config`` wants it and, started if need be, healthy; else why not."""
    states = _containers()
    if yaml.safe_load(CONFIG.read_text()) != config:
        return "its node image, pools or ports have changed"
    if set(states) != {name for names in cluster.nodes.values() for name in names}:
        return "nodes are missing"
    stopped = [name for name, state in states.items() if state != "running"]
    if stopped:
        stage.update(f"starting {len(stopped)} nodes again")
        # One by one in the order in which they were made, so that they tend to get their old addresses.
        for name in stopped:
            if run([host.docker(), "start", name], check=False).returncode != 0:
                return f"node {name} does not start"
    if not cluster.kubeconfig.is_file():
        export: list[str | Path] = [
            tools.kind,
            "export",
            "kubeconfig",
            "--name",
            NAME,
            "--kubeconfig",
            cluster.kubeconfig,
        ]
        run(export, env=_path())
    _raise_inotify_limits(config)
    return _wait_until_healthy(stage, tools, cluster, RESTART_SECONDS)


def _create(stage: Stage, tools: toolchain.Tools, config: Json, cluster: Cluster) -> None:
    delete(stage)
    for mapping in config["nodes"][0]["extraPortMappings"]:
        host.check_port(mapping["hostPort"])
    _raise_inotify_limits(config)
    stage.update(f"creating a cluster of {len(config['nodes'])} nodes")
    text = yaml.safe_dump(config, sort_keys=False)
    create: list[str | Path] = [tools.kind, "create", "cluster", "--name", NAME, "--config", "-"]
    run(
        [*create, "--kubeconfig", cluster.kubeconfig],
        input=text,
        env=_path(),
        log="kind",
        timeout=CREATE_SECONDS,
    )
    problem = _wait_until_healthy(stage, tools, cluster, READY_SECONDS)
    if problem:
        message = f"the new cluster is not healthy after {READY_SECONDS} s: {problem}"
        raise CliError(message, "run the command again")
    CONFIG.write_text(text)


def _path() -> dict[str, str]:
    """Have kind use the same Docker client as we do."""
    return {"PATH": f"{Path(host.docker()).parent}{os.pathsep}{os.environ['PATH']}"}


def _raise_inotify_limits(config: Json) -> None:
    """Raise the limits of the kernel that Docker runs on, from a container: this needs no root here."""
    low = []
    for name, wanted in INOTIFY_LIMITS.items():
        file = Path("/proc/sys/fs/inotify") / name
        if file.exists() and int(file.read_text()) < wanted:
            low.append(f"fs.inotify.{name}={wanted}")
    if low:
        sysctl = ["--rm", "--privileged", "--entrypoint", "sysctl", config["nodes"][0]["image"], "-w", *low]
        run([host.docker(), "run", *sysctl])


def _wait_until_healthy(stage: Stage, tools: toolchain.Tools, cluster: Cluster, seconds: float) -> str:
    """Wait until the cluster is healthy and return "", or after ``seconds`` what is wrong with it."""
    deadline = time.monotonic() + seconds
    while problem := _problem(tools, cluster):
        stage.update(f"waiting: {problem}")
        if time.monotonic() > deadline:
            return problem
        time.sleep(1)
    return ""


def _problem(tools: toolchain.Tools, cluster: Cluster) -> str:
    kubectl = [*cluster.kubectl(tools), "--request-timeout=5s"]
    answers = []
    for what in (["nodes"], ["leases", "-n", "kube-node-lease"], ["pods", "-n", "kube-system", *DNS_PODS]):
        result = run([*kubectl, "get", *what, "-o", "json"], check=False)
        if result.returncode != 0:
            return "the API server does not answer"
        answers.append(json.loads(result.stdout))
    nodes, leases, dns = answers
    expected = {name for names in cluster.nodes.values() for name in names}
    return unready_nodes(expected, nodes, leases, datetime.now(UTC)) or _unreachable_dns(dns, cluster)


def unready_nodes(expected: set[str], nodes: Json, leases: Json, now: datetime) -> str:
    """Return which ``expected`` nodes are not Ready or have given no sign for HEARTBEAT_SECONDS."""
    ready = {node["metadata"]["name"] for node in nodes["items"] if _is_ready(node)}
    fresh = {
        lease["metadata"]["name"]
        for lease in leases["items"]
        if (now - datetime.fromisoformat(lease["spec"]["renewTime"])).total_seconds() < HEARTBEAT_SECONDS
    }
    missing = sorted(expected - (ready & fresh))
    return f"not ready: {', '.join(missing)}" if missing else ""


def _unreachable_dns(pods: Json, cluster: Cluster) -> str:
    """Try from the CPU worker to reach a CoreDNS pod, which as a rule runs on another node."""
    addresses = [pod["status"]["podIP"] for pod in pods["items"] if _is_ready(pod)]
    if not addresses:
        return "CoreDNS is not ready"
    worker = cluster.nodes[CPU][0]
    connect = f"timeout 3 bash -c 'echo > /dev/tcp/{addresses[0]}/53'"
    if run([host.docker(), "exec", worker, "sh", "-c", connect], check=False).returncode != 0:
        return f"{worker} does not reach the pod network"
    return ""


def _is_ready(item: Json) -> bool:
    conditions = item["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
