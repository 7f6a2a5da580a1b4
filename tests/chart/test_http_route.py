"""HTTPRoutes of the Gateway API, for what may have an Ingress as well: one shape for all three."""

from __future__ import annotations

import pytest
from references import References
from render import CHART, ChartError, Object, containers, find, render_chart
from test_references import put
from trainyard_cli.chart import merge

GATEWAY: Object = {"name": "gateway", "namespace": "gateways"}
# Key -> name of the route and its Service, namespace, and the Service's port.
ROUTES = {
    "airflow.apiServer.httpRoute": ("trainyard-api-server", "trainyard", 8080),
    "mlflow.httpRoute": ("trainyard-mlflow", "trainyard", 5000),
    "versitygw.httpRoute": ("trainyard-versitygw", "ml-training", 7070),
}
# Argo CD and `helm install` tell the chart the APIs of the cluster; every cluster has this one.
CLUSTER = ("apiregistration.k8s.io/v1",)
each_route = pytest.mark.parametrize("key", ROUTES)


def on(key: str, **values: object) -> Object:
    return put(key, {"enabled": True, "parentRefs": [GATEWAY], "hostnames": ["a.example.com"], **values})


def route(key: str, **values: object) -> Object:
    return find(render_chart(values=on(key, **values)), "HTTPRoute", ROUTES[key][0])


def rules(key: str, *given: Object) -> list[Object]:
    found: list[Object] = route(key, rules=list(given))["spec"]["rules"]
    return found


def backend(key: str) -> Object:
    name, _, port = ROUTES[key]
    return {"group": "", "kind": "Service", "name": name, "port": port, "weight": 1}


@each_route
def test_a_route_leads_to_the_service_with_all_that_the_api_would_fill_in(key: str) -> None:
    """Within lists: Argo CD compares these as a whole, and would never be in sync."""
    found = route(key)
    assert (found["metadata"]["name"], found["metadata"]["namespace"]) == ROUTES[key][:2]
    assert found["spec"] == {
        "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", **GATEWAY}],
        "hostnames": ["a.example.com"],
        "rules": [
            {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [backend(key)]}
        ],
    }


def test_there_is_none_by_default() -> None:
    assert not [one for one in render_chart() if one["kind"] == "HTTPRoute"]


@each_route
def test_what_a_route_has_of_its_own(key: str) -> None:
    service = {"kind": "Service", "group": "", "name": "mesh", "port": 80}
    parents = [{**GATEWAY, "sectionName": "https"}, service]
    found = route(
        key,
        parentRefs=parents,
        path="/here",
        pathType="Exact",
        labels={"team": "a"},
        annotations={"example.com/a": "b"},
    )
    assert found["metadata"]["labels"]["team"] == "a"
    assert found["metadata"]["annotations"] == {"example.com/a": "b"}
    assert found["spec"]["parentRefs"] == [
        {"group": "gateway.networking.k8s.io", "kind": "Gateway", **parents[0]},
        parents[1],
    ]
    assert found["spec"]["rules"][0]["matches"] == [{"path": {"type": "Exact", "value": "/here"}}]


@each_route
def test_rules_take_the_place_of_the_path(key: str) -> None:
    anywhere = {"path": {"type": "PathPrefix", "value": "/"}}
    timed, get, redirect, elsewhere = rules(
        key,
        {"timeouts": {"request": "0s"}},
        {"matches": [{"method": "GET"}, {"path": {"value": "/a"}}]},
        {"filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}]},
        {"backendRefs": [{"name": "other", "port": 80, "weight": 0}]},
    )
    assert timed == {"matches": [anywhere], "backendRefs": [backend(key)], "timeouts": {"request": "0s"}}
    assert get["matches"] == [
        {"method": "GET", **anywhere},
        {"path": {"type": "PathPrefix", "value": "/a"}},
    ]
    assert get["backendRefs"] == [backend(key)]
    assert "backendRefs" not in redirect  # the API refuses both
    assert elsewhere["backendRefs"] == [
        {"group": "", "kind": "Service", "name": "other", "port": 80, "weight": 0}
    ]


@each_route
def test_what_filters_and_conditions_leave_out_is_written(key: str) -> None:
    """All of the API's defaults: tests/e2e/test_http_route.py asks the API itself."""
    mirror = {"backendRef": {"name": "copy", "port": 80}, "fraction": {"numerator": 5}}
    filters = [
        {"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}},
        {"type": "RequestMirror", "requestMirror": mirror},
    ]
    condition = {"name": "a", "value": "b"}
    rule, other = rules(
        key,
        {"matches": [{"headers": [condition], "queryParams": [condition]}], "filters": filters},
        {"backendRefs": [{"name": "other", "port": 80, "filters": filters[1:]}]},
    )
    assert (
        rule["matches"][0]["headers"] == rule["matches"][0]["queryParams"] == [{"type": "Exact", **condition}]
    )
    mirrored = {
        "backendRef": {"group": "", "kind": "Service", **mirror["backendRef"]},
        "fraction": {"numerator": 5, "denominator": 100},
    }
    assert rule["filters"] == [
        {"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 302}},
        {"type": "RequestMirror", "requestMirror": mirrored},
    ]
    assert other["backendRefs"][0]["filters"] == rule["filters"][1:]


@each_route
def test_a_route_and_an_ingress_stand_beside_each_other(key: str) -> None:
    """Whoever moves from one to the other has both for a while."""
    ingress = {
        "airflow": {"ingress": {"apiServer": {"enabled": True, "hosts": ["a.example.com"]}}},
        **{name: {"ingress": {"enabled": True, "host": "a.example.com"}} for name in ("mlflow", "versitygw")},
    }
    objects = render_chart(values=merge(ingress, on(key)))
    assert {one["kind"] for one in objects if one["metadata"]["name"] == ROUTES[key][0]} >= {
        "Ingress",
        "HTTPRoute",
    }
    assert References(objects).check() == []


def test_the_port_is_that_which_leads_to_the_api_server() -> None:
    ports = [{"name": "metrics", "port": 9000, "targetPort": 9000}, {"name": "web", "port": 80}]
    service = {"airflow": {"apiServer": {"service": {"ports": ports}}}}
    values = merge(on("airflow.apiServer.httpRoute"), service)
    spec = find(render_chart(values=values), "HTTPRoute", "trainyard-api-server")["spec"]
    assert spec["rules"][0]["backendRefs"][0]["port"] == 80


def mlflow_options(values: Object) -> dict[str, list[str]]:
    """The server's options that take a list."""
    (server,) = containers(find(render_chart(values=values), "Deployment", "trainyard-mlflow"))[-1:]
    pairs = (argument.partition("=") for argument in server["args"] if argument.startswith("--"))
    return {name: value.split(",") for name, _, value in pairs}


@pytest.mark.parametrize(("tls", "scheme"), [(True, "https"), (False, "http")])
def test_mlflow_answers_to_the_hosts_of_its_route(tls: bool, scheme: str) -> None:
    values = on("mlflow.httpRoute", hostnames=["a.example.com", "b.example.com"], tls=tls)
    options = mlflow_options(values)
    assert options["--allowed-hosts"][-2:] == ["a.example.com", "b.example.com"]
    assert options["--cors-allowed-origins"] == [f"{scheme}://a.example.com", f"{scheme}://b.example.com"]
    beside = merge(values, {"mlflow": {"ingress": {"enabled": True, "host": "old.example.com"}}})
    assert mlflow_options(beside)["--cors-allowed-origins"] == [
        *("http://old.example.com", f"{scheme}://a.example.com", f"{scheme}://b.example.com")
    ]


@each_route
def test_a_cluster_without_the_api_is_told_so(key: str) -> None:
    with pytest.raises(ChartError) as refused:
        render_chart(values=on(key), apis=CLUSTER)
    said = f"{key}.enabled: the cluster has no API gateway.networking.k8s.io/v1; install"
    assert said in str(refused.value)
    assert render_chart(values=on(key), apis=(*CLUSTER, "gateway.networking.k8s.io/v1"))
    assert render_chart(values=put(key, {"enabled": False}), apis=CLUSTER)


@pytest.mark.parametrize("chart", ["airflow", "mlflow", "versitygw"])
def test_a_chart_that_stands_alone_has_it_too(chart: str) -> None:
    key = next(key for key in ROUTES if key.startswith(chart))
    values = on(key)[chart]
    if chart == "versitygw":
        values = merge(values, {"persistence": {"existingClaim": "datasets"}})
    objects = render_chart(values=values, chart=CHART / "charts" / chart)
    (found,) = (one for one in objects if one["kind"] == "HTTPRoute")
    assert found["spec"]["rules"][0]["backendRefs"] == [backend(key)]


@pytest.mark.parametrize(
    ("values", "page"),
    [
        (on("mlflow.httpRoute", port=8443), "https://a.example.com:8443"),
        (on("mlflow.httpRoute", port=443), "https://a.example.com"),
        (on("mlflow.httpRoute", tls=False, port=8080), "http://a.example.com:8080"),
        (
            {"mlflow": {"ingress": {"enabled": True, "host": "a.example.com", "port": 81}}},
            "http://a.example.com:81",
        ),
    ],
)
def test_mlflow_answers_to_the_port_that_browsers_name(values: Object, page: str) -> None:
    options = mlflow_options(values)
    assert options["--cors-allowed-origins"] == [page]
    assert options["--allowed-hosts"][-1] == page.partition("://")[2]
