"""Every pair of pods, and each pod with what lies outside: allowed where the platform needs it, else not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from components import VARIANTS
from made import made_at_run_time
from network import End, Network, pod, policies, workloads
from render import ChartError, Object, render_chart

API_SERVER, MLFLOW, DATABASE = "trainyard-api-server", "trainyard-mlflow", "trainyard-postgresql"
TRIGGERER, DAG_PROCESSOR = "trainyard-triggerer", "trainyard-dag-processor"
OBJECT_STORE, CLEANUP = "trainyard-versitygw", "trainyard-database-cleanup"
RECONCILER = "trainyard-reconciler"
WORKER, TRAINING, PEER, MODEL = "worker", "training", "training-peer", "model-server"
OWN_TRAINING, ELSEWHERE = "own-pod-in-training", "elsewhere"
VOLUMES = "trainyard-training-volumes"
AIRFLOW = {API_SERVER, "trainyard-scheduler", DAG_PROCESSOR, TRIGGERER}
USE_PGBOUNCER = {*AIRFLOW, CLEANUP, RECONCILER}
USE_DATABASE = {*USE_PGBOUNCER, "trainyard-migrate-database", MLFLOW, f"{MLFLOW}-garbage-collection"}
PGBOUNCER = "trainyard-pgbouncer"
STATSD = "trainyard-statsd"
SEND_METRICS = {*AIRFLOW, "trainyard-migrate-database", CLEANUP, WORKER}
IN_TRAINING = {TRAINING, PEER, OWN_TRAINING, VOLUMES}
CALLERS = {
    API_SERVER: {WORKER, "trainyard-airflow-pools"},
    DATABASE: USE_DATABASE,
    PGBOUNCER: USE_PGBOUNCER,
    MLFLOW: {TRIGGERER, WORKER, f"{MLFLOW}-garbage-collection", MODEL, *IN_TRAINING},
    OBJECT_STORE: {TRIGGERER, WORKER, ELSEWHERE},
    MODEL: {TRIGGERER, ELSEWHERE},
    **{name: IN_TRAINING for name in IN_TRAINING},
}
USE_KUBERNETES = {"trainyard-scheduler", TRIGGERER, RECONCILER, "trainyard-bootstrap-secrets"}
CALL_OUT = {API_SERVER, DAG_PROCESSOR, TRIGGERER, CLEANUP, WORKER, *IN_TRAINING}
# Ports that somebody may listen on without anyone knowing of it.
UNKNOWN = (22, 80, 443, 5353, 9999, 29500)
DNS = End("dns", "10.244.9.9", "kube-system", {"k8s-app": "kube-dns"})
INTERNET = End("internet", "203.0.113.7")
METADATA = [
    End("metadata", "169.254.169.254"),
    End("pod identity", "169.254.170.23"),
    End("v6", "fd00:ec2::254"),
]
KUBERNETES = [(End("service", "10.96.0.1"), 443), (End("server", "172.18.0.2"), 6443)]

each_variant = pytest.mark.parametrize("files", VARIANTS, ids=lambda files: "+".join(files) or "defaults")
each_reading = pytest.mark.parametrize("blocks_hold_pods", [True, False])


def has_artifacts_in_s3(files: tuple[str, ...]) -> bool:
    return "production.yaml" in files and not {"gke.yaml", "aks.yaml"} & set(files)


def use_database(all_ends: dict[str, End]) -> set[str]:
    return (USE_DATABASE - USE_PGBOUNCER) | {PGBOUNCER} if PGBOUNCER in all_ends else USE_DATABASE


def ends(objects: list[Object], directory: Path) -> dict[str, End]:
    """A pod of every workload, of those that Airflow and the DAG library make, and two strangers."""
    made = made_at_run_time(objects, directory)
    training = made["training"]["metadata"]["namespace"]
    others = [
        pod(WORKER, "10.244.1.1", made["worker"]),
        pod(TRAINING, "10.244.1.2", made["training"]),
        pod(PEER, "10.244.1.3", made["training"]),
        pod(MODEL, "10.244.1.4", made["model-server"]),
        End(OWN_TRAINING, "10.244.1.5", training),
        End("own-pod-in-release", "10.244.1.6", "trainyard"),
        End(ELSEWHERE, "10.244.1.7", "elsewhere"),
    ]
    return {**workloads(objects), **{one.name: one for one in others}}


def callers(
    network: Network, all_ends: dict[str, End], target: End, port: int, protocol: str = "TCP"
) -> set[str]:
    """Whose connections to the target pass."""
    others = [end for end in all_ends.values() if end.name != target.name]
    return {end.name for end in others if network.allows(end, target, port, protocol)}


@each_reading
@each_variant
def test_every_pair(files: tuple[str, ...], blocks_hold_pods: bool, tmp_path: Path) -> None:
    objects = render_chart(files=files)
    network, all_ends = Network(policies(objects), blocks_hold_pods), ends(objects, tmp_path)
    expected = {name: set(wanted) for name, wanted in CALLERS.items()}
    if files == ("kind.yaml",):
        expected[MLFLOW].add(ELSEWHERE)  # a NodePort
    if has_artifacts_in_s3(files):
        expected[OBJECT_STORE].add(MLFLOW)
    if "object-storage.yaml" in files:
        expected[OBJECT_STORE] |= {API_SERVER, *IN_TRAINING}
    if set(files) & {"kind.yaml", "production.yaml"}:
        expected[API_SERVER].add(ELSEWHERE)  # a NodePort, an Ingress
    for target in all_ends.values():
        if target.name == ELSEWHERE:
            continue
        wanted = (expected.get(target.name, set()) & all_ends.keys()) - {target.name}
        for port in target.ports:
            assert callers(network, all_ends, target, port) == wanted, (target.name, port)
        for port in UNKNOWN:
            found = callers(network, all_ends, target, port)
            assert found == (wanted if target.name in IN_TRAINING else set()), (target.name, port)


@each_variant
def test_every_pod_of_ours_is_closed_both_ways(files: tuple[str, ...], tmp_path: Path) -> None:
    objects = render_chart(files=files)
    network = Network(policies(objects))
    for end in ends(objects, tmp_path).values():
        if end.namespace != ELSEWHERE:
            assert network.selecting(end, "Ingress") and network.selecting(end, "Egress"), end.name


@each_variant
def test_nobody_reaches_the_metadata_of_a_cloud(files: tuple[str, ...], tmp_path: Path) -> None:
    objects = render_chart(files=files)
    all_ends = ends(objects, tmp_path)
    for target in METADATA:
        for port in (53, 80, 443, 988):
            assert callers(Network(policies(objects)), all_ends, target, port) == {ELSEWHERE}


@each_variant
def test_who_reaches_what_is_outside(files: tuple[str, ...], tmp_path: Path) -> None:
    objects = render_chart(files=files)
    network, all_ends = Network(policies(objects)), ends(objects, tmp_path)

    def reach(target: End, port: int, protocol: str = "TCP") -> set[str]:
        return callers(network, all_ends, target, port, protocol) - {ELSEWHERE}

    if "closed-network.yaml" in files:
        assert reach(INTERNET, 443) == reach(INTERNET, 5432) == set()
        for server, port in KUBERNETES:
            assert reach(server, port) == USE_KUBERNETES
        return
    out = (CALL_OUT & all_ends.keys()) | (
        {"trainyard-dag-publisher-ranking"} & all_ends.keys()
    )  # the other one's git is by SSH
    if has_artifacts_in_s3(files):
        out |= {MLFLOW}
    backups = {name for name in all_ends if name.startswith(("trainyard-backup", "trainyard-restore"))}
    out |= backups
    if "production.yaml" in files:  # a database of one's own
        assert reach(INTERNET, 5432) == use_database(all_ends) | backups
    else:
        assert reach(INTERNET, 5432) == set()
    for server, port in KUBERNETES:
        assert reach(server, port) == USE_KUBERNETES | (out if port == 443 else set())
    assert reach(INTERNET, 80) == reach(INTERNET, 25) == set()
    silent = {DATABASE, OBJECT_STORE, STATSD, "own-pod-in-release"}
    resolve = {name for name in all_ends if name not in {*silent, ELSEWHERE} and "device-plugin" not in name}
    assert reach(DNS, 53) == reach(DNS, 53, "UDP") == resolve
    assert reach(DNS, 9153) == set()


@pytest.mark.parametrize(
    ("values", "target", "port", "wanted"),
    [
        pytest.param(
            {"mlflow": {"enabled": False}, "training": {"trackingUri": "http://mlflow.lan:5005/x"}},
            INTERNET,
            5005,
            {TRIGGERER, WORKER, MODEL, *IN_TRAINING},
            id="an MLflow of one's own",
        ),
        pytest.param(
            {"openlineage": {"url": "http://marquez:5055"}}, INTERNET, 5055, {TRIGGERER}, id="lineage"
        ),
        pytest.param(
            {"airflow": {"env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}]}},
            INTERNET,
            4318,
            SEND_METRICS,
            id="a collector",
        ),
        pytest.param(
            {"postgresql": {"enabled": False}, "networkPolicies": {"egress": {"databasePorts": [6432]}}},
            INTERNET,
            6432,
            USE_DATABASE,
            id="a database of one's own",
        ),
        pytest.param(
            {
                "airflow": {
                    "pgbouncer": {"enabled": True},
                    "data": {"metadataConnection": {"host": "db.lan", "port": 6432}},
                }
            },
            INTERNET,
            6432,
            {PGBOUNCER, "trainyard-migrate-database", MLFLOW, f"{MLFLOW}-garbage-collection"},
            id="a database of one's own behind PgBouncer",
        ),
        pytest.param(
            {"networkPolicies": {"egress": {"ports": [8443]}}},
            INTERNET,
            443,
            USE_KUBERNETES,
            id="other ports",
        ),
        pytest.param(
            {"networkPolicies": {"egress": {"cidrs": ["198.51.100.0/24"]}}},
            INTERNET,
            443,
            USE_KUBERNETES,
            id="other addresses",
        ),
        pytest.param(
            {"networkPolicies": {"kubernetesApi": {"cidrs": ["172.18.0.0/16"]}}},
            KUBERNETES[1][0],
            6443,
            USE_KUBERNETES,
            id="the API server's addresses",
        ),
        pytest.param(
            {"airflow": {"workers": {"serviceAccount": {"automountServiceAccountToken": True}}}},
            KUBERNETES[1][0],
            6443,
            {*USE_KUBERNETES, WORKER},
            id="workers with a token",
        ),
        pytest.param(
            {
                "airflow": {
                    "workers": {"kubernetes": {"serviceAccount": {"automountServiceAccountToken": True}}}
                }
            },
            KUBERNETES[1][0],
            6443,
            {*USE_KUBERNETES, WORKER},
            id="workers with a token by their other key",
        ),
        pytest.param(
            {
                "networkPolicies": {
                    "extra": {"mlflow": {"egress": [{"to": [{"ipBlock": {"cidr": "169.254.169.254/32"}}]}]}}
                }
            },
            METADATA[0],
            80,
            {MLFLOW},
            id="a rule of one's own",
        ),
        pytest.param(
            {
                "mlflow": {
                    "auth": {
                        "oidc": {
                            "issuer": "https://login.lan:8443/realms/ml",
                            "secretName": "client",
                            "roles": {"*": "viewer"},
                        }
                    }
                }
            },
            INTERNET,
            8443,
            {MLFLOW},
            id="an identity provider",
        ),
        pytest.param(
            {"networkPolicies": {"dns": {"to": [{"ipBlock": {"cidr": "203.0.113.7/32"}}], "ports": [5353]}}},
            INTERNET,
            5353,
            {*USE_DATABASE, *USE_KUBERNETES, "trainyard-airflow-pools", WORKER, MODEL, *IN_TRAINING},
            id="another DNS",
        ),
    ],
)
def test_values_open_what_they_name(
    values: dict[str, Any], target: End, port: int, wanted: set[str], tmp_path: Path
) -> None:
    objects = render_chart(values=values)
    all_ends = ends(objects, tmp_path)
    assert (
        callers(Network(policies(objects)), all_ends, target, port) - {ELSEWHERE} == wanted & all_ends.keys()
    )


@pytest.mark.parametrize(
    ("repo", "port"),
    [
        ("https://git.lan/a.git", 443),
        ("http://git.lan:3000/a.git", 3000),
        ("ssh://git@git.lan/a.git", 22),
        ("ssh://git@git.lan:2222/a.git", 2222),
        ("git@git.lan:group/a.git", 22),
    ],
)
def test_a_dag_publisher_reaches_its_git_server(repo: str, port: int, tmp_path: Path) -> None:
    bundle = {"repo": repo, "sshKeySecret": "key", "knownHosts": "git.lan ssh-ed25519 AAAA"}
    objects = render_chart(values={"airflow": {"dags": {"git": {"bundles": {"team": bundle}}}}})
    network, all_ends = Network(policies(objects)), ends(objects, tmp_path)
    publisher = all_ends["trainyard-dag-publisher-team"]
    ports = [one for one in (22, 80, 443, 2222, 3000) if network.allows(publisher, INTERNET, one)]
    assert ports == [port]


@each_reading
@pytest.mark.parametrize(
    "ports", [{}, {"statsdIngest": 8125, "statsdScrape": 9998}], ids=["usual ports", "other ports"]
)
def test_whatever_runs_airflow_sends_its_metrics(
    ports: dict[str, int], blocks_hold_pods: bool, tmp_path: Path
) -> None:
    objects = render_chart(values={"airflow": {"statsd": {"enabled": True}, "ports": ports}})
    network, all_ends = Network(policies(objects), blocks_hold_pods), ends(objects, tmp_path)
    ingest, scrape = {"statsdIngest": 9125, "statsdScrape": 9102, **ports}.values()

    def reach(port: int, protocol: str) -> set[str]:
        return callers(network, all_ends, all_ends[STATSD], port, protocol)

    assert reach(ingest, "UDP") == SEND_METRICS & all_ends.keys()
    assert reach(scrape, "TCP") == {ELSEWHERE}, "who has no rules of its own: Airflow fetches no metrics"
    assert reach(ingest, "TCP") == reach(scrape, "UDP") == reach(53, "UDP") == set()


def test_a_rule_of_ones_own_lets_somebody_else_send_metrics(tmp_path: Path) -> None:
    rule = {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ELSEWHERE}}}],
        "ports": [{"protocol": "UDP", "port": 9125}],
    }
    values = {
        "airflow": {"statsd": {"enabled": True}},
        "networkPolicies": {"extra": {"statsd": {"ingress": [rule]}}},
    }
    objects = render_chart(values=values)
    all_ends = ends(objects, tmp_path)
    assert Network(policies(objects)).allows(all_ends[ELSEWHERE], all_ends[STATSD], 9125, "UDP")


ROUTE = {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["a.lan"]}


@pytest.mark.parametrize(
    ("client", "target", "values"),
    [
        ("airflow", API_SERVER, {"airflow": {"apiServer": {"service": {"type": "LoadBalancer"}}}}),
        ("mlflow", MLFLOW, {"mlflow": {"service": {"type": "LoadBalancer"}}}),
        ("mlflow", MLFLOW, {"mlflow": {"ingress": {"enabled": True, "host": "mlflow.lan"}}}),
        ("mlflow", MLFLOW, {"mlflow": {"httpRoute": ROUTE}}),
        ("airflow", API_SERVER, {"airflow": {"apiServer": {"httpRoute": ROUTE}}}),
        ("models", MODEL, {}),
        ("objectStore", OBJECT_STORE, {}),
        ("metrics", STATSD, {"airflow": {"statsd": {"enabled": True}}}),
    ],
)
def test_clients_may_be_named(client: str, target: str, values: dict[str, Any], tmp_path: Path) -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}
    named = {**values, "networkPolicies": {"clients": {client: [peer]}}}
    for given, elsewhere in ((values, True), (named, False)):
        objects = render_chart(values=given)
        network, there = Network(policies(objects)), ends(objects, tmp_path)[target]
        (port,) = there.ports
        assert network.allows(End("shop", "10.244.3.1", "shop"), there, port)
        assert network.allows(End(ELSEWHERE, "10.244.3.2", ELSEWHERE), there, port) is elsewhere


@pytest.mark.parametrize("namespace", ["", "airflow"])
def test_an_airflow_of_ones_own_reaches_what_it_needs(namespace: str, tmp_path: Path) -> None:
    external = {"namespace": namespace, "serviceAccounts": ["airflow-triggerer"]}
    shop = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}]
    values = {
        "airflow": {"enabled": False},
        "externalAirflow": external,
        "networkPolicies": {"clients": {"models": shop, "objectStore": shop}},
    }
    objects = render_chart(values=values)
    network = Network(policies(objects))
    triggerer = End("their-triggerer", "10.244.4.1", namespace or "trainyard", {"component": "triggerer"})
    assert not network.selecting(triggerer, "Egress"), "its rules are its own"
    stranger = End(ELSEWHERE, "10.244.4.2", ELSEWHERE)
    targets = workloads(objects)
    model = End(MODEL, "10.244.4.3", "ml-serving", ports=(8080,))
    for target in (targets[MLFLOW], targets[OBJECT_STORE], model):
        assert network.allows(triggerer, target, target.ports[0]), target.name
        assert not network.allows(stranger, target, target.ports[0]), target.name
    assert not network.allows(triggerer, targets[DATABASE], 5432)


def test_switched_off_there_are_none() -> None:
    assert not policies(render_chart(values={"networkPolicies": {"enabled": False}}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"extra": {"mlfow": {}}}, r"networkPolicies\.extra\.mlfow: there is no such component .*mlflow"),
        *(
            (
                {"egress": {"cidrs": [cidr]}},
                f"networkPolicies.egress.cidrs: {cidr} holds the addresses of cloud metadata",
            )
            for cidr in (
                "169.254.169.254/32",
                "128.0.0.0/1",
                "169.0.0.0/8",
                "fd00:ec2::/32",
                "f000::/4",
                "fe80::/10",
            )
        ),
        ({"kubernetesApi": {"cidrs": ["0.0.0.0/1"]}}, "networkPolicies.kubernetesApi.cidrs: 0.0.0.0/1"),
        ({"egress": {"ports": [70000]}}, "networkPolicies/egress/ports/0"),
        ({"dns": {"ports": []}}, "networkPolicies/dns/ports"),
        ({"kubernetesApi": {"cidrs": []}}, "networkPolicies/kubernetesApi/cidrs"),
        ({"kubernetesApi": {"ports": []}}, "networkPolicies/kubernetesApi/ports"),
    ],
)
def test_mistakes_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ChartError, match=message):
        render_chart(values={"networkPolicies": values})
