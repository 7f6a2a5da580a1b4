"""Known causes: what a message of Argo CD, Helm, git or Kubernetes says, and what helps."""

from __future__ import annotations

import re
from collections.abc import Mapping

# The first pattern found counts. {file} and {values} are those of the environment, {where} is the workload.
CURES = (
    # Before those of git: the registry may be unreachable, too.
    (
        r"ErrImagePull|ImagePullBackOff|ErrImageNeverPull|InvalidImageName",
        "push the image, correct environment.images in {file}, or name a pull secret (imagePullSecrets)",
    ),
    # Of values, what their schema says names the key but not always what to write.
    (
        r"specifications of the schema[\s\S]*additional properties",
        "correct the name of the key in {values}, or remove it; docs/values.md lists all keys",
    ),
    (
        r"specifications of the schema[\s\S]*got (number|boolean), want string",
        "put the value in {values} between quotes",
    ),
    (
        r"specifications of the schema[\s\S]*got string, want (integer|number|boolean)",
        "take the quotes or the unit from the value in {values}",
    ),
    (
        r"specifications of the schema[\s\S]*missing propert",
        "add the missing key in {values}",
    ),
    (
        r"meet the specifications of the schema|bad value\(s\)|execution error at|error converting YAML",
        "correct {values} or revert the commit; until then the platform stays as it is",
    ),
    (
        r"knownhosts: key mismatch",
        "find out why the git server's host key differs from that in ConfigMap argocd-ssh-known-hosts-cm",
    ),
    (
        r"knownhosts: key is unknown",
        "write the git server's host key into ConfigMap argocd-ssh-known-hosts-cm",
    ),
    (
        r"(?i)authentication required|unable to authenticate|permission denied \(publickey"
        r"|authorization failed|invalid username or password|invalid credentials|repository not found",
        "correct url, key or token in the Secret labelled argocd.argoproj.io/secret-type: repository",
    ),
    (
        r"(?i)unable to resolve '[^']*' to a commit|unable to resolve git revision|not our ref"
        r"|couldn't find remote ref|reference not found",
        "push the commit or tag, or correct the revision in {file}",
    ),
    (
        r"app path does not exist",
        "correct environment.revision in {file}: that revision has no charts/trainyard",
    ),
    (
        r"no such file or directory",
        "correct environment.valueFiles in {file}: the revision lacks one of them",
    ),
    (
        r"(?i)dial tcp|no such host|connection refused|could not resolve host|i/o timeout|no route to host",
        "check the repository's address, and whether argocd-repo-server reaches it (DNS, NetworkPolicies)",
    ),
    (
        r"not permitted in project|allowed destinations|is not permitted",
        "add the kind, the destination or the repository to manifests/argocd/project.yaml, and apply it",
    ),
    (r"field is immutable", "delete the object if that loses nothing, or set the value back in {values}"),
    (
        r"is invalid: |denied the request|violates PodSecurity",
        "correct the value in {values}: Kubernetes refuses the object",
    ),
    (r"exceeded quota", "raise the quota, or lower requests and limits in {values}"),
    (r"CrashLoopBackOff", "read its last words: kubectl logs {where} --all-containers --previous"),
    (
        r'CreateContainerConfigError|(?i:secret|configmap) "[^"]*" not found',
        "make the Secret that it names (docs/operations.md), or correct its name in {values}",
    ),
    (
        r'unbound immediate PersistentVolumeClaims|persistentvolumeclaim "[^"]*" not found',
        "kubectl describe pvc says why the claim is not bound; correct its storageClassName in {values}",
    ),
    (
        r"Insufficient |untolerated taint|didn't match Pod's node",
        "add nodes, or correct requests or nodeSelector in {values}",
    ),
)


def cure(message: str, places: Mapping[str, str]) -> str:
    """Return what helps against what a message says, "" where it is unknown; ``places`` fills braces."""
    for pattern, text in CURES:
        if re.search(pattern, message):
            return text.format_map(places)
    return ""
