"""Git repositories of the tests: real ones, with environments and a chart as small as can be."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml
from trainyard_cli.git import Repository

DIGESTS = {name: "sha256:" + name * 64 for name in "abcdef"}

CHART = {
    "charts/trainyard/Chart.yaml": "{apiVersion: v2, name: trainyard, version: 0.1.0}\n",
    "charts/trainyard/values.yaml": "replicas: 1\nimage: {repository: r, tag: '1', digest: ''}\n",
    "charts/trainyard/values.schema.json": '{"properties": {"replicas": {"type": "integer"}}}\n',
    "charts/trainyard/templates/all.yaml": """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: model, namespace: {{ .Release.Namespace }}}
spec:
  replicas: {{ .Values.replicas }}
  template:
    spec:
      containers:
        - name: model
          image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}
            {{- with .Values.image.digest }}@{{ . }}{{ end }}"
---
apiVersion: batch/v1
kind: Job
metadata:
  name: migrate-{{ .Values.image | toJson | sha256sum | trunc 8 }}
  namespace: {{ .Release.Namespace }}
spec: {template: {spec: {containers: [{name: a, image: "x@{{ .Values.image.digest }}"}]}}}
""",
    "values/base.yaml": "replicas: 2\n",
}


def git(directory: Path, *words: str) -> str:
    """Run git in a directory, without the settings of whoever runs the tests; return what it printed."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    settings = ("user.name=Tester", "user.email=tester@example.com", "init.defaultBranch=main")
    command = ["git", "-C", str(directory), *(word for each in settings for word in ("-c", each)), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


class Checkout:
    """A git repository in which tests write files and make commits."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet")
        for key, value in {"user.name": "Tester", "user.email": "tester@example.com"}.items():
            self.git("config", key, value)

    @property
    def repository(self) -> Repository:
        return Repository(self.root)

    def git(self, *words: str) -> str:
        return git(self.root, *words)

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def commit(self, message: str, files: dict[str, str] | None = None) -> str:
        self.write(files or {})
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")


def environment(digest: str | None = "a", tag: str = "1", **fields: Any) -> str:
    """An environment.yaml; its one image has a digest of this letter only."""
    image = {"repository": "registry.example.com/model", "tag": tag}
    if digest:
        image["digest"] = DIGESTS[digest]
    content = {
        "server": f"https://{fields.get('promotedFrom', 'first')}.example.com",
        "namespace": "ml",
        "release": "ml",
        "revision": "main",
        "valueFiles": ["../../values/base.yaml"],
        "images": {"image": image},
        **fields,
    }
    return yaml.safe_dump({"environment": content}, sort_keys=False)


def file(name: str) -> str:
    return f"values/environments/{name}/environment.yaml"
