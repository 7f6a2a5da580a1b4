"""HTTPRoutes by an API server that knows the Gateway API: it takes each as it is, and fills in nothing.

What it filled in within lists, Argo CD would call a difference for ever.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import NAMESPACE, ROOT
from local_images import Quiet
from trainyard_cli import toolchain

pytestmark = pytest.mark.alone

GATEWAY_API = ("sigs.k8s.io/gateway-api", "v1.4.1")
DEFINITION = "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"
MIRROR = {"backendRef": {"name": "copy", "port": 80}, "fraction": {"numerator": 5}}
RULES = [
    {},
    {"matches": [{"method": "GET"}, {"path": {"value": "/a"}}, {"path": {"type": "Exact"}}]},
    {"matches": [{"headers": [{"name": "a", "value": "b"}], "queryParams": [{"name": "c", "value": "d"}]}]},
    {"filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}]},
    {"filters": [{"type": "RequestMirror", "requestMirror": MIRROR}]},
    {
        "backendRefs": [
            {
                "name": "other",
                "port": 80,
                "filters": [{"type": "RequestMirror", "requestMirror": MIRROR}],
            }
        ]
    },
]
PARENT = {"name": "gateway", "namespace": "gateways"}


def kubectl(*arguments: str, given: str = "") -> str:
    done = subprocess.run(["kubectl", *arguments], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def definition() -> Iterator[None]:
    """The API server knows HTTPRoutes for the time of this test."""
    file = str(toolchain.sources(Quiet(), *GATEWAY_API) / DEFINITION)
    kubectl("apply", "--server-side", "-f", file)
    try:
        kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", file)
        yield
    finally:
        kubectl("delete", "-f", file)


@pytest.mark.parametrize("rules", [[], RULES], ids=["the path", "rules"])
def test_the_api_fills_in_nothing(rules: list[dict[str, Any]]) -> None:
    route = {"enabled": True, "hostnames": ["a.example.com"], "parentRefs": [PARENT], "rules": rules}
    values = {
        "airflow": {"apiServer": {"httpRoute": route}},
        "mlflow": {"httpRoute": route},
        "versitygw": {"httpRoute": route},
    }
    command = ["helm", "template", "trainyard", str(ROOT / "charts/trainyard"), "--namespace", NAMESPACE]
    rendered = subprocess.run(
        [*command, "--values", "-"], input=json.dumps(values), capture_output=True, text=True, check=True
    )
    routes = [one for one in yaml.safe_load_all(rendered.stdout) if one and one["kind"] == "HTTPRoute"]
    assert len(routes) == 3
    for one in routes:
        answer = kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", given=json.dumps(one))
        assert json.loads(answer)["spec"] == one["spec"]
