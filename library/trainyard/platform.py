"""What the chart tells the DAGs about the platform: images, placement, volumes.

The chart writes it to one JSON file (ConfigMap `trainyard-platform`), the environment variable
`TRAINYARD_PLATFORM` names that file, and nothing else in the library knows where a pod may run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from trainyard_contract import DEVICES

from trainyard.naming import RELEASE, label_safe
from trainyard.pod_settings import PodSettings

# The DAG that cleans up for all who are in no team.
MAINTENANCE = "maintenance"
DEFAULT_PATH = "/opt/airflow/platform/platform.json"
T = TypeVar("T")


class PlatformError(Exception):
    """The platform file is missing or wrong; the message names the key and the cure."""


@dataclass(frozen=True)
class Volume:
    """Where training pods keep data: a claim that they mount, or a place in an object store."""

    claim_name: str = ""
    mount_path: str = ""
    object_uri: str = ""

    @property
    def is_mounted(self) -> bool:
        """Whether it is a claim."""
        return not self.object_uri

    @property
    def uri(self) -> str:
        """Where it is for training pods, as a URI."""
        return self.object_uri or f"file://{self.mount_path.rstrip('/')}"

    def directory(self, name: str) -> str:
        """Return a directory in it: a path on a claim, else a URI."""
        return f"{self.object_uri or self.mount_path}/{name}"


@dataclass(frozen=True)
class GpuPool:
    """One entry of the chart's `gpuPools`: which nodes they are and how pods get there.

    Also one of its `gpuPoolLists`: then `choices` are its pools, the preferred one first, and Kueue places
    pods on the nodes of one of them.
    """

    name: str
    airflow_pool: str
    resource_name: str
    gpus_per_node: int
    gpu_type: str
    spot: bool
    cost_per_gpu_hour: float
    node_selector: Mapping[str, str]
    tolerations: tuple[Mapping[str, Any], ...]
    resources: Mapping[str, Any] = field(default_factory=dict)
    pod: PodSettings = field(default_factory=PodSettings)
    max_nodes: int = 1
    # The LocalQueue that admits its Jobs, of the same name in each namespace of training; "" without Kueue.
    queue: str = ""
    choices: tuple[GpuPool, ...] = ()

    @property
    def words(self) -> str:
        """What to call it in a sentence."""
        if not self.choices:
            return f"pool {self.name}"
        return f"pool {' or '.join(each.name for each in self.choices)} of list {self.name}"

    @property
    def most_gpus(self) -> int:
        """The GPUs that pods may have at once, all in one pool."""
        return max((each.most_gpus for each in self.choices), default=self.max_nodes * self.gpus_per_node)

    def chosen(self, node_selector: Mapping[str, str]) -> GpuPool:
        """The pool of a list whose nodes a Job's pods select; itself before one is chosen."""
        selected = (each for each in self.choices if each.node_selector.items() <= node_selector.items())
        return next(selected, self)

    def refusal(self, gpus: int) -> str:
        """Why no pod can have so many GPUs; "" if a node has them, of a list one of each pool."""
        if self.choices:
            return next(filter(None, (each.refusal(gpus) for each in self.choices)), "")
        is_number = isinstance(gpus, int) and not isinstance(gpus, bool)
        if is_number and 1 <= gpus <= self.gpus_per_node:
            return ""
        return f"gpus={gpus!r}: a node of pool {self.name} has {self.gpus_per_node}"


@dataclass(frozen=True)
class Training:
    """Everything that training pods have in common."""

    namespace: str
    service_account_name: str
    image: str
    image_pull_policy: str
    image_pull_secrets: tuple[Mapping[str, str], ...]
    tracking_uri: str
    tracking_ui_url: str
    gpu_device: str
    priority_class_name: str
    spot_priority_class_name: str
    checkpoint_freq: int
    cpu_resources: Mapping[str, Any]
    gpu_resources: Mapping[str, Any]
    pod_security_context: Mapping[str, Any]
    container_security_context: Mapping[str, Any]
    datasets: Volume
    checkpoints: Volume
    keep_failed_pods: bool
    more_volumes: Mapping[str, Volume] = field(default_factory=dict)
    pod: PodSettings = field(default_factory=PodSettings)

    def priority_class(self, pool: GpuPool | None) -> str:
        """The PriorityClass of a pod on this pool, or without GPUs."""
        return self.spot_priority_class_name if pool and pool.spot else self.priority_class_name


@dataclass(frozen=True)
class Team:
    """Who shares the GPU pools with others: one entry of the chart's `teams`.

    `dags` are ids of its DAGs, or beginnings of ids followed by one `*`; `namespace` is where those train.
    `airflow_role` is the role in Airflow whose users see them; "" where everybody does.
    """

    name: str
    namespace: str
    dags: tuple[str, ...]
    airflow_role: str = ""

    @property
    def maintenance(self) -> str:
        """The id of the DAG that cleans up the team's volumes."""
        return f"{MAINTENANCE}-{self.name}"

    def has(self, dag_id: str) -> bool:
        """Whether the DAG is one of the team's `dags`."""
        return any(
            dag_id.startswith(each[:-1]) if each.endswith("*") else dag_id == each for each in self.dags
        )


@dataclass(frozen=True)
class Serving:
    """Where model servers run; image, security and MLflow's address are those of training."""

    namespace: str
    service_account_name: str
    replicas: int
    port: int
    priority_class_name: str
    resources: Mapping[str, Any]
    pod: PodSettings = field(default_factory=PodSettings)
    disruption_budget: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class StockOperators:
    """Where pods of Airflow's own Kubernetes operators run, as which ServiceAccount, and who launches them.

    `launcher` is a ServiceAccount in Airflow's namespace; "" where the chart does not make that Airflow.
    """

    namespace: str
    service_account_name: str
    launcher: str


@dataclass(frozen=True)
class Lineage:
    """Who receives OpenLineage events, and the namespace of their jobs."""

    url: str
    namespace: str


@dataclass(frozen=True)
class Maintenance:
    """The CronJobs that the maintenance starts, by what they clean: `airflowDatabase`, `mlflowGarbage`."""

    namespace: str
    cron_jobs: Mapping[str, str]


@dataclass(frozen=True)
class Platform:
    """The platform file, checked.

    `default_pool` is the GPU pool of what names none; None where there are no GPUs, and training runs on
    CPUs. `default_spot_pool` is that of what may lose its node: the default pool where no pool is spot.
    `release` is the release's namespace and name, and "" where an older chart wrote the file.
    `serving` is None where the chart's `serving.enabled` is false, `lineage` where its `openlineage.url` is
    empty, `maintenance` where the chart makes none of its CronJobs, `stock_operators` where its
    `stockOperators.enabled` is false. `local` is the directory of trainings on this machine, without a
    cluster. `teams` have namespaces of their own; what no team has trains in `training.namespace`.
    `pool_lists` are lists of pools, of which Kueue chooses one for each training.
    """

    training: Training
    pools: Mapping[str, GpuPool]
    default_pool: str | None = None
    default_spot_pool: str | None = None
    serving: Serving | None = None
    lineage: Lineage | None = None
    maintenance: Maintenance | None = None
    local: Path | None = None
    release: str = ""
    stock_operators: StockOperators | None = None
    teams: Mapping[str, Team] = field(default_factory=dict)
    pool_lists: Mapping[str, GpuPool] = field(default_factory=dict)

    @property
    def release_labels(self) -> dict[str, str]:
        """The labels of what the release's Airflow makes; none where the file does not say whose it is."""
        return {RELEASE: label_safe(self.release)} if self.release else {}

    @property
    def pool_names(self) -> list[str]:
        """What a training may name as its pool: pools and lists of them."""
        return sorted({*self.pools, *self.pool_lists})

    def pool(self, name: str) -> GpuPool:
        """Return the GPU pool `name`, or the list of that name.

        Raises:
            PlatformError: there is no such pool; names those that there are.
        """
        if name not in self.pool_names:
            known = ", ".join(self.pool_names) or "none"
            raise PlatformError(
                f"no GPU pool {name!r} (there are: {known}); choose one of them or add it to `gpuPools`"
            )
        return self.pools.get(name) or self.pool_lists[name]

    @property
    def training_namespaces(self) -> tuple[str, ...]:
        """Every namespace in which Jobs of training may run: that of no team first."""
        of_teams = (team.namespace for team in self.teams.values())
        return tuple(dict.fromkeys((self.training.namespace, *of_teams)))

    def team_of(self, dag_id: str) -> Team | None:
        """The team that a DAG belongs to; None if it is no team's."""
        by_maintenance = {team.maintenance: team for team in self.teams.values()}
        if dag_id == MAINTENANCE:
            return None
        # The chart refuses patterns of two teams that match the same DAG.
        return by_maintenance.get(dag_id) or next(
            (team for team in self.teams.values() if team.has(dag_id)), None
        )

    def for_dag(self, dag_id: str) -> Platform:
        """The platform as the trainings of a DAG see it: in the namespace of its team, if it has one."""
        team = self.team_of(dag_id)
        if team is None:
            return self
        return replace(self, training=replace(self.training, namespace=team.namespace))


def load_platform(path: str | Path | None = None) -> Platform:
    """Read the platform file (by default the one that TRAINYARD_PLATFORM names).

    Raises:
        PlatformError: the file is missing or wrong.
    """
    file = Path(path or os.environ.get("TRAINYARD_PLATFORM", DEFAULT_PATH))
    try:
        data = json.loads(file.read_text())
    except OSError as error:
        raise PlatformError(
            f"cannot read the platform file {file} ({error.strerror}); set TRAINYARD_PLATFORM to the file "
            "which the chart's ConfigMap `trainyard-platform` holds"
        ) from error
    except ValueError as error:
        raise PlatformError(f"{file} is not JSON: {error}") from error
    return _platform(_Section(data, file.name))


class _Section:
    """One JSON object of the file, which knows its own path for error messages."""

    def __init__(self, data: object, path: str) -> None:
        if not isinstance(data, dict):
            raise PlatformError(f"{path}: expected an object, got {type(data).__name__}")
        self.data = data
        self.path = path

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        value = self.data.get(key, default)
        if value is None:
            raise PlatformError(f"{self.path}.{key} is missing; the chart and the DAG library do not match")
        if kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise PlatformError(f"{self.path}.{key}: expected {kind.__name__}, got {value!r}")
        return value

    def section(self, key: str) -> _Section:
        return _Section(self.get(key, dict), f"{self.path}.{key}")


def _platform(top: _Section) -> Platform:
    section, training = top.section("pools"), top.section("training")
    pools = {name: _pool(name, section.section(name)) for name in section.data}
    default, spot = _default_pools(training, pools)
    return Platform(
        training=_training(training),
        pools=pools,
        default_pool=default,
        default_spot_pool=spot,
        serving=_serving(top.section("serving")) if "serving" in top.data else None,
        lineage=_lineage(top.section("openlineage")) if "openlineage" in top.data else None,
        maintenance=_maintenance(top.section("maintenance")) if "maintenance" in top.data else None,
        local=Path(top.get("local", str)) if "local" in top.data else None,
        release=top.get("release", str, ""),
        stock_operators=_stock_operators(top),
        teams=_teams(top),
        pool_lists=_pool_lists(top, pools),
    )


def _teams(top: _Section) -> dict[str, Team]:
    section = _Section(top.get("teams", dict, {}), f"{top.path}.teams")
    return {name: _team(name, section.section(name)) for name in section.data}


def _team(name: str, team: _Section) -> Team:
    dags = team.get("dags", list)
    for each in dags:
        if not isinstance(each, str) or "*" in each[:-1] or not each:
            raise PlatformError(
                f"{team.path}.dags: expected ids of DAGs, or beginnings of them with one `*` at the end, "
                f"got {each!r}"
            )
    return Team(name, team.get("namespace", str), tuple(dags), team.get("airflowRole", str, ""))


def _stock_operators(top: _Section) -> StockOperators | None:
    if "stockOperators" not in top.data:
        return None
    section = top.section("stockOperators")
    return StockOperators(
        namespace=section.get("namespace", str),
        service_account_name=section.get("serviceAccountName", str),
        launcher=section.get("launcher", str, ""),
    )


def _default_pools(training: _Section, pools: Mapping[str, GpuPool]) -> tuple[str | None, str | None]:
    """The default pool and the default spot pool: those that the file names, else the first by name."""
    on_demand, spot = (
        sorted(name for name, pool in pools.items() if pool.spot is kind) for kind in (False, True)
    )
    default = _named_pool(training, "defaultPool", pools) or next(iter([*on_demand, *spot]), None)
    return default, _named_pool(training, "defaultSpotPool", pools) or next(iter(spot), default)


def _named_pool(training: _Section, key: str, pools: Mapping[str, GpuPool]) -> str | None:
    if training.data.get(key) is None:
        return None
    name = training.get(key, str)
    if name not in pools:
        known = ", ".join(sorted(pools)) or "none"
        raise PlatformError(f"{training.path}.{key}: no GPU pool {name!r} (there are: {known})")
    return name


def _training(training: _Section) -> Training:
    device = training.get("gpuDevice", str)
    if device not in DEVICES:
        raise PlatformError(
            f"{training.path}.gpuDevice: expected {' or '.join(map(repr, DEVICES))}, got {device!r}"
        )
    resources = training.section("resources")
    volumes = training.section("volumes")
    return Training(
        namespace=training.get("namespace", str),
        service_account_name=training.get("serviceAccountName", str),
        image=training.get("image", str),
        image_pull_policy=training.get("imagePullPolicy", str, "IfNotPresent"),
        image_pull_secrets=tuple(training.get("imagePullSecrets", list, [])),
        tracking_uri=training.get("trackingUri", str),
        tracking_ui_url=training.get("trackingUiUrl", str, ""),
        gpu_device=device,
        priority_class_name=training.get("priorityClassName", str),
        spot_priority_class_name=training.get("spotPriorityClassName", str),
        checkpoint_freq=training.get("checkpointFreq", int),
        cpu_resources=resources.get("cpu", dict),
        gpu_resources=resources.get("gpu", dict),
        pod_security_context=training.get("podSecurityContext", dict),
        container_security_context=training.get("containerSecurityContext", dict),
        datasets=_volume(volumes.section("datasets")),
        checkpoints=_volume(volumes.section("checkpoints")),
        keep_failed_pods=training.get("keepFailedPods", bool, False),
        more_volumes={
            name: _volume(volumes.section(name))
            for name in volumes.data
            if name not in ("datasets", "checkpoints")
        },
        pod=_pod_settings(training),
    )


def _lineage(lineage: _Section) -> Lineage:
    return Lineage(url=lineage.get("url", str), namespace=lineage.get("namespace", str))


def _maintenance(maintenance: _Section) -> Maintenance:
    return Maintenance(
        namespace=maintenance.get("namespace", str), cron_jobs=maintenance.get("cronJobs", dict)
    )


def _serving(serving: _Section) -> Serving:
    return Serving(
        namespace=serving.get("namespace", str),
        service_account_name=serving.get("serviceAccountName", str),
        replicas=serving.get("replicas", int),
        port=serving.get("port", int),
        priority_class_name=serving.get("priorityClassName", str),
        resources=serving.get("resources", dict),
        pod=_pod_settings(serving),
        disruption_budget=serving.get("podDisruptionBudget", dict, {}) or None,
    )


def _volume(volume: _Section) -> Volume:
    if uri := volume.get("uri", str, ""):
        return Volume(object_uri=uri.rstrip("/"))
    return Volume(volume.get("claimName", str), volume.get("mountPath", str))


def _pool(name: str, pool: _Section) -> GpuPool:
    return GpuPool(
        name=name,
        airflow_pool=pool.get("airflowPool", str),
        resource_name=pool.get("resourceName", str),
        gpus_per_node=pool.get("gpusPerNode", int),
        gpu_type=pool.get("gpuType", str),
        spot=pool.get("spot", bool),
        cost_per_gpu_hour=pool.get("costPerGpuHour", float, 0.0),
        node_selector=pool.get("nodeSelector", dict),
        tolerations=tuple(pool.get("tolerations", list)),
        resources=pool.get("resources", dict, {}),
        pod=_pod_settings(pool),
        max_nodes=pool.get("maxNodes", int, 1),
        queue=pool.get("queue", str, ""),
    )


def _pool_lists(top: _Section, pools: Mapping[str, GpuPool]) -> dict[str, GpuPool]:
    section = _Section(top.get("poolLists", dict, {}), f"{top.path}.poolLists")
    return {name: _pool_list(name, section.section(name), pools) for name in section.data}


def _pool_list(name: str, section: _Section, pools: Mapping[str, GpuPool]) -> GpuPool:
    """What holds in each of its pools: a Job is made before one is chosen.

    In what is taken from the first pool the others are the same: the chart refuses other lists.
    """
    names = section.get("pools", list)
    if not names or not set(names) <= set(pools):
        known = ", ".join(sorted(pools)) or "none"
        raise PlatformError(f"{section.path}.pools: expected GPU pools, got {names!r} (there are: {known})")
    choices = tuple(pools[each] for each in names)
    return replace(
        choices[0],
        name=name,
        airflow_pool=section.get("airflowPool", str),
        gpus_per_node=min(each.gpus_per_node for each in choices),
        gpu_type=" or ".join(dict.fromkeys(each.gpu_type for each in choices)),
        # It is as urgent as what may have a GPU that is not spot.
        spot=all(each.spot for each in choices),
        cost_per_gpu_hour=max(each.cost_per_gpu_hour for each in choices),
        node_selector={},
        tolerations=(),
        max_nodes=min(each.max_nodes for each in choices),
        queue=section.get("queue", str),
        choices=choices,
    )


def _pod_settings(owner: _Section) -> PodSettings:
    """The key `pod` of a section, whose keys are the fields of PodSettings in camelCase."""
    section, default = _Section(owner.get("pod", dict, {}), f"{owner.path}.pod"), PodSettings()
    values: dict[str, Any] = {}
    for each in fields(PodSettings):
        empty = getattr(default, each.name)
        if isinstance(empty, tuple):
            values[each.name] = tuple(section.get(_camel_case(each.name), list, []))
        else:
            values[each.name] = section.get(_camel_case(each.name), type(empty), empty)
    return PodSettings(**values)


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)
