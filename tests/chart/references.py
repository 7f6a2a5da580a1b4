"""Everything that the objects of one render refer to, and whether it is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml
from render import POD_KINDS, Object, containers, identity, pod_metadata, pod_spec

# Kind, namespace (None for what has none), name.
Place = tuple[str, str | None, str]

# A URL's host and port: http://host:port, or the database's user:password@host:port.
ADDRESS = re.compile(r"(?:https?://|[^/\s\"']:[^/\s\"']*@)(\[?[\w.-]+\]?):(\d{1,5})(?!\d)")
TEMPLATE = re.compile(r"\{((?:[\w.-]+/)?[\w.-]+)/([\w.-]+)\}")
SYSTEM_CLASSES = {"system-node-critical", "system-cluster-critical"}
CLUSTER_DOMAIN = ("svc", "svc.cluster.local")


class References:
    """What a render has, and what it refers to."""

    def __init__(self, objects: list[Object], external: set[Place] | None = None) -> None:
        """`external` is what the render needs and somebody else makes; a Secret of it has any key."""
        self.objects = [*objects, *_worker_pods(objects)]
        self.external = external or set()
        self.places = {place(one) for one in objects}
        self.secrets = {key for one in objects for key in bootstrapped(one)}
        self.missing: list[str] = []

    def check(self) -> list[str]:
        """Return what is referred to and is not there, one line each."""
        for one in self.objects:
            if one["kind"] in POD_KINDS:
                self._check_pods(one)
            checks = {
                "Service": self._check_service,
                "Ingress": self._check_ingress,
                "HTTPRoute": self._check_route,
                "PodDisruptionBudget": self._check_budget,
                "HorizontalPodAutoscaler": self._check_scaler,
                "RoleBinding": self._check_binding,
                "Role": self._check_role,
                "StatefulSet": self._check_stateful_set,
                "ConfigMap": self._check_platform,
            }
            checks.get(one["kind"], lambda _: None)(one)
            self._check_addresses(one)
        return self.missing

    def _want(self, one: Object, *wanted: Place) -> None:
        for kind, namespace, name in wanted:
            known = self.places | self.external | {("Secret", space, name) for space, name, _ in self.secrets}
            if (kind, namespace, name) not in known:
                self._miss(one, f"{kind} {namespace}/{name}")

    def _want_key(self, one: Object, name: str, key: str, namespace: str | None = None) -> None:
        namespace = namespace or one["metadata"]["namespace"]
        if ("Secret", namespace, name) not in self.external and (namespace, name, key) not in self.secrets:
            self._miss(one, f"key {key} of Secret {namespace}/{name}")

    def _miss(self, one: Object, what: str) -> None:
        self.missing.append(f"{' '.join(identity(one))} refers to {what}")

    def _check_pods(self, one: Object) -> None:
        namespace, spec = one["metadata"]["namespace"], pod_spec(one)
        self._want(one, ("ServiceAccount", namespace, spec["serviceAccountName"]))
        if spec["priorityClassName"] not in SYSTEM_CLASSES:
            self._want(one, ("PriorityClass", None, spec["priorityClassName"]))
        for secret in spec.get("imagePullSecrets", []):
            self._want(one, ("Secret", namespace, secret["name"]))
        for volume in spec.get("volumes", []):
            self._check_volume(one, volume)
        for container in containers(one):
            for variable in container.get("env", []):
                self._check_source(one, variable.get("valueFrom", {}))
            for source in container.get("envFrom", []):
                for kind, key in (("Secret", "secretRef"), ("ConfigMap", "configMapRef")):
                    if key in source:
                        self._want(one, (kind, namespace, source[key]["name"]))
            self._check_mounts(one, container)
        if "bootstrap_secrets.py" in json.dumps(spec):
            self._check_recipes(one)

    def _check_source(self, one: Object, source: Object) -> None:
        if reference := source.get("secretKeyRef"):
            if not reference.get("optional"):
                self._want_key(one, reference["name"], reference["key"])
        elif reference := source.get("configMapKeyRef"):
            self._want_config_key(one, reference["name"], reference["key"])

    def _check_volume(self, one: Object, volume: Object) -> None:
        namespace = one["metadata"]["namespace"]
        for source in [volume, *volume.get("projected", {}).get("sources", [])]:
            if config := source.get("configMap"):
                self._want(one, ("ConfigMap", namespace, config["name"]))
                for item in config.get("items", []):
                    self._want_config_key(one, config["name"], item["key"])
            if (secret := source.get("secret")) and not self._may_be_missing(volume, secret):
                self._want(one, ("Secret", namespace, secret.get("secretName") or secret["name"]))
        if claim := volume.get("persistentVolumeClaim"):
            self._want(one, ("PersistentVolumeClaim", namespace, claim["claimName"]))

    def _may_be_missing(self, volume: Object, secret: Object) -> bool:
        """The triggerer has its login of MLflow as optional, as it may not know whether there is one."""
        has_login = volume["name"] == "mlflow-login" and "--app-name=basic-auth" in json.dumps(self.objects)
        return bool(secret.get("optional")) and not has_login

    def _check_mounts(self, one: Object, container: Object) -> None:
        """Each mount has a volume, and a single file of a ConfigMap is in it."""
        volumes = {volume["name"]: volume for volume in pod_spec(one).get("volumes", [])}
        claims = [claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])]
        for mount in container.get("volumeMounts", []):
            if mount["name"] in claims:
                continue
            if mount["name"] not in volumes:
                self._miss(one, f"volume {mount['name']}")
            elif (config := volumes[mount["name"]].get("configMap")) and "subPath" in mount:
                self._want_config_key(one, config["name"], mount["subPath"])

    def _want_config_key(self, one: Object, name: str, key: str) -> None:
        namespace = one["metadata"]["namespace"]
        self._want(one, ("ConfigMap", namespace, name))
        data = [each["data"] for each in self.objects if place(each) == ("ConfigMap", namespace, name)]
        if data and key not in data[0]:
            self._miss(one, f"key {key} of ConfigMap {namespace}/{name}")

    def _check_recipes(self, one: Object) -> None:
        """The Secrets that others are composed of are made, and may be read."""
        for space, _, recipe in _recipes(one):
            for full_name, key in TEMPLATE.findall(recipe.get("template", "")):
                namespace, _, name = full_name.rpartition("/")
                namespace = namespace or one["metadata"]["namespace"]
                self._want_key(one, name, key, namespace)
                roles = [each for each in self.objects if each["kind"] == "Role"]
                may_read = {
                    (role["metadata"]["namespace"], secret)
                    for role in roles
                    for rule in role["rules"]
                    if rule["resources"] == ["secrets"] and "get" in rule["verbs"]
                    for secret in rule["resourceNames"]
                }
                if (namespace, name) not in may_read:
                    self._miss(one, f"Secret {namespace}/{name}, which it may not read for {space}")

    def _check_service(self, one: Object) -> None:
        workloads = self._selected(one, one["spec"]["selector"])
        for port in one["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            served = [
                each
                for workload in workloads
                for container in containers(workload)
                for each in container.get("ports", [])
            ]
            if target not in [
                value for each in served for value in (each.get("name"), each["containerPort"])
            ]:
                self._miss(one, f"port {target}, which its pods do not have")

    def _check_budget(self, one: Object) -> None:
        self._selected(one, one["spec"]["selector"]["matchLabels"])

    def _check_scaler(self, one: Object) -> None:
        target = one["spec"]["scaleTargetRef"]
        self._want(one, (target["kind"], one["metadata"]["namespace"], target["name"]))

    def _selected(self, one: Object, selector: dict[str, str]) -> list[Object]:
        """The workload whose pods a selector selects; not one is missing, and two are a mistake."""
        found = [
            each
            for each in self.objects
            if each["kind"] in POD_KINDS
            and each["metadata"]["namespace"] == one["metadata"]["namespace"]
            and selector.items() <= pod_metadata(each)["labels"].items()
        ]
        if len(found) != 1:
            self._miss(one, f"pods {selector}, of {len(found)} workloads")
        return found

    def _check_ingress(self, one: Object) -> None:
        namespace = one["metadata"]["namespace"]
        for rule in one["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                self._want(one, ("Service", namespace, backend["name"]))
                ports = self._ports(namespace, backend["name"])
                if not {backend["port"].get("name"), backend["port"].get("number")} & ports:
                    self._miss(one, f"port {backend['port']} of Service {namespace}/{backend['name']}")
        for entry in one["spec"].get("tls") or []:
            self._want(one, ("Secret", namespace, entry["secretName"]))

    def _check_route(self, one: Object) -> None:
        namespace = one["metadata"]["namespace"]
        for rule in one["spec"]["rules"]:
            for backend in rule.get("backendRefs", []):
                self._want(one, ("Service", namespace, backend["name"]))
                if backend["port"] not in self._ports(namespace, backend["name"]):
                    self._miss(one, f"port {backend['port']} of Service {namespace}/{backend['name']}")

    def _ports(self, namespace: str, service: str) -> set[str | int]:
        found: set[str | int] = set()
        for each in self.objects:
            if place(each) == ("Service", namespace, service):
                found |= {value for port in each["spec"]["ports"] for value in (port["name"], port["port"])}
        return found

    def _check_binding(self, one: Object) -> None:
        namespace = one["metadata"]["namespace"]
        self._want(one, (one["roleRef"]["kind"], namespace, one["roleRef"]["name"]))
        accounts = [each for each in one.get("subjects") or [] if each["kind"] == "ServiceAccount"]
        self._want(one, *((each["kind"], each["namespace"], each["name"]) for each in accounts))

    def _check_role(self, one: Object) -> None:
        kinds = {"cronjobs": "CronJob", "secrets": "Secret", "configmaps": "ConfigMap"}
        for rule in one["rules"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames", []):
                    self._want(one, (kinds[resource], one["metadata"]["namespace"], name))

    def _check_stateful_set(self, one: Object) -> None:
        self._want(one, ("Service", one["metadata"]["namespace"], one["spec"]["serviceName"]))

    def _check_platform(self, one: Object) -> None:
        """What DAGs start: training pods, model servers, and the Jobs of the maintenance."""
        if "platform.json" not in one.get("data", {}):
            return
        told = json.loads(one["data"]["platform.json"])
        training = told["training"]
        self._want(one, ("ServiceAccount", training["namespace"], training["serviceAccountName"]))
        for volume in training["volumes"].values():
            if "claimName" in volume:
                self._want(one, ("PersistentVolumeClaim", training["namespace"], volume["claimName"]))
        for source in training["pod"].get("envFrom", []):
            if "secretRef" in source:
                self._want(one, ("Secret", training["namespace"], source["secretRef"]["name"]))
        for key in ("priorityClassName", "spotPriorityClassName"):
            self._want(one, ("PriorityClass", None, training[key]))
        if serving := told.get("serving"):
            self._want(one, ("ServiceAccount", serving["namespace"], serving["serviceAccountName"]))
            self._want(one, ("PriorityClass", None, serving["priorityClassName"]))
        for section in filter(None, (training, told.get("serving"))):
            for volume in section["pod"]["extraVolumes"]:
                self._want_key(
                    one,
                    volume["secret"]["secretName"],
                    volume["secret"]["items"][0]["key"],
                    section["namespace"],
                )
        if maintenance := told.get("maintenance"):
            for name in maintenance["cronJobs"].values():
                self._want(one, ("CronJob", maintenance["namespace"], name))

    def _check_addresses(self, one: Object) -> None:
        """Each address in the cluster is that of a Service, and the server answers to that name."""
        namespace = one["metadata"].get("namespace")
        for text in _texts(one):
            for host, port in ADDRESS.findall(text):
                located = _service(host, namespace)
                if located and int(port) not in self._ports(*located):
                    self._miss(one, f"the address {host}:{port}")
                elif located:
                    self._check_host_header(one, f"{host}:{port}", located)

    def _check_host_header(self, one: Object, address: str, located: tuple[str, str]) -> None:
        for workload in self.objects:
            if workload["kind"] != "Deployment" or place(workload)[1:] != located:
                continue
            for argument in (each for each in containers(workload)[-1].get("args", [])):
                option, _, hosts = argument.partition("=")
                if option == "--allowed-hosts" and address not in hosts.split(","):
                    self._miss(one, f"{address}, to which {workload['metadata']['name']} does not answer")


def place(one: Object) -> Place:
    """Where an object is."""
    return one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]


def _worker_pods(objects: list[Object]) -> list[Object]:
    """The pods of the executor's template, in the namespace that the executor is told."""
    found = []
    for one in objects:
        if text := one.get("data", {}).get("pod_template_file.yaml"):
            pod = yaml.safe_load(text)
            pod["metadata"]["namespace"] = one["metadata"]["namespace"]
            found.append(pod)
    return found


def _recipes(one: Object) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Full name, key and recipe of what a bootstrap Job makes."""
    for container in containers(one):
        for variable in container.get("env", []):
            if variable["name"] == "SECRETS":
                for name, keys in json.loads(variable["value"]).items():
                    for key, recipe in keys.items():
                        yield name, key, recipe


def bootstrapped(one: Object) -> Iterator[tuple[str, str, str]]:
    """Namespace, name and key of what a bootstrap Job makes, and of a Secret of the chart's own."""
    if one["kind"] == "Secret":
        for key in {**one.get("data", {}), **one.get("stringData", {})}:
            yield one["metadata"]["namespace"], one["metadata"]["name"], key
    if one["kind"] == "Job":
        for full_name, key, _ in _recipes(one):
            namespace, _, name = full_name.rpartition("/")
            yield namespace or one["metadata"]["namespace"], name, key


def _texts(value: Any) -> Iterator[str]:
    """Every text in an object."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value


def _service(host: str, namespace: str | None) -> tuple[str, str] | None:
    """Namespace and name of the Service that a host name means within the cluster; None for another host."""
    name, *rest = host.split(".")
    if host in ("localhost", "127.0.0.1"):
        return None
    if not rest:
        return (namespace, name) if namespace else None
    return (rest[0], name) if len(rest) == 1 or ".".join(rest[1:]) in CLUSTER_DOMAIN else None
