"""What NetworkPolicies say of a connection, as a CNI that enforces them reads them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from render import POD_KINDS, Object, containers, identity, pod_metadata

OPERATORS: dict[str, Callable[[str | None, list[str]], bool]] = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,
    "Exists": lambda value, _: value is not None,
    "DoesNotExist": lambda value, _: value is None,
}


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod, or with no namespace an address outside of the pod network."""

    name: str
    address: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Network:
    """The policies of a render.

    To some CNIs (Calico, kube-router) an address block holds pods as well, to others (Cilium) it does not.
    """

    policies: list[Object]
    blocks_hold_pods: bool = True

    def allows(self, source: End, target: End, port: int, protocol: str = "TCP") -> bool:
        """Whether both ends agree to the connection."""
        return self._agrees("Egress", source, target, port, protocol) and self._agrees(
            "Ingress", target, source, port, protocol
        )

    def selecting(self, pod: End, direction: str) -> list[Object]:
        """The policies that hold for a pod in one direction."""
        return [
            policy
            for policy in self.policies
            if pod.namespace == policy["metadata"]["namespace"]
            and direction in policy["spec"]["policyTypes"]
            and _selects(policy["spec"]["podSelector"], pod.labels)
        ]

    def _agrees(self, direction: str, end: End, peer: End, port: int, protocol: str) -> bool:
        policies = self.selecting(end, direction)
        rules = [rule for policy in policies for rule in policy["spec"].get(direction.lower(), [])]
        return not policies or any(
            self._covers(rule.get("from" if direction == "Ingress" else "to"), end, peer)
            and _covers_port(rule.get("ports"), port, protocol)
            for rule in rules
        )

    def _covers(self, peers: list[Object] | None, end: End, other: End) -> bool:
        return not peers or any(self._is(peer, end, other) for peer in peers)

    def _is(self, peer: Object, end: End, other: End) -> bool:
        if "ipBlock" in peer:
            return (self.blocks_hold_pods or not other.namespace) and _holds(peer["ipBlock"], other.address)
        if not other.namespace:
            return False
        namespaces = peer.get("namespaceSelector")
        if namespaces is None:
            in_namespace = other.namespace == end.namespace
        else:
            in_namespace = _selects(namespaces, {"kubernetes.io/metadata.name": other.namespace})
        return in_namespace and _selects(peer.get("podSelector", {}), other.labels)


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        OPERATORS[one["operator"]](labels.get(one["key"]), one.get("values", [])) for one in expressions
    )


def _holds(block: Object, address: str) -> bool:
    ranges = [ipaddress.ip_network(block["cidr"]), *map(ipaddress.ip_network, block.get("except", []))]
    wide, *narrow = [ipaddress.ip_address(address) in one for one in ranges]
    return wide and not any(narrow)


def _covers_port(ports: list[Object] | None, port: int, protocol: str) -> bool:
    wanted = (port, protocol)
    return not ports or any((one.get("port", port), one.get("protocol", "TCP")) == wanted for one in ports)


def policies(objects: Iterable[Object]) -> list[Object]:
    """The NetworkPolicies of a render."""
    return [one for one in objects if one["kind"] == "NetworkPolicy"]


def workloads(objects: Iterable[Object]) -> dict[str, End]:
    """A pod of each rendered workload, by the workload's name without the hash."""
    found = {}
    for number, one in enumerate(one for one in objects if one["kind"] in POD_KINDS):
        name = identity(one)[1]
        found[name] = pod(name, f"10.244.0.{number}", one)
    return found


def pod(name: str, address: str, one: Object) -> End:
    """A pod that an object makes, with the ports of TCP that its containers name."""
    ports = {
        port["containerPort"]
        for part in containers(one)
        for port in part.get("ports", [])
        if port.get("protocol", "TCP") == "TCP"
    }
    return End(name, address, one["metadata"]["namespace"], pod_metadata(one)["labels"], tuple(sorted(ports)))
