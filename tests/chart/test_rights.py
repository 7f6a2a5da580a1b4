"""No ServiceAccount may do more than tests/rights.yaml says; tests/e2e/test_access.py asks the API server."""

from __future__ import annotations

import pytest
from components import VARIANTS
from references import bootstrapped
from render import Object, render_chart
from rights import RIGHTS, Rules, rules_of

QUEUES: Object = {"queues": {"kueue": {"enabled": True}}}


def rights(objects: list[Object]) -> dict[str, dict[str, Rules]]:
    """What the Roles of a render let each of its ServiceAccounts do, by namespace."""
    roles = {_key(one): one["rules"] for one in objects if one["kind"] == "Role"}
    found: dict[str, dict[str, Rules]] = {_key(one): {} for one in objects if one["kind"] == "ServiceAccount"}
    rules: dict[tuple[str, str], list[Object]] = {}
    for one in objects:
        if one["kind"] == "RoleBinding":
            space = one["metadata"]["namespace"]
            for subject in one["subjects"]:
                assert subject["kind"] == "ServiceAccount"
                place = (f"{subject['namespace']}/{subject['name']}", space)
                rules.setdefault(place, []).extend(roles[f"{space}/{one['roleRef']['name']}"])
    for (account, space), all_rules in rules.items():
        found[account][space] = rules_of(all_rules)
    return found


def _key(one: Object) -> str:
    return f"{one['metadata']['namespace']}/{one['metadata']['name']}"


def test_the_file_says_exactly_what_the_chart_gives() -> None:
    assert rights(render_chart(values=QUEUES)) == RIGHTS


@pytest.mark.parametrize("files", VARIANTS)
def test_no_environment_gives_more(files: tuple[str, ...]) -> None:
    objects = render_chart(files=files)
    assert not [one for one in objects if one["kind"] in ("ClusterRole", "ClusterRoleBinding")]
    # With an object store other connections are composed, of Secrets that the same Job makes.
    made = {f"secrets {name}": ["get"] for one in objects for _, name, _ in bootstrapped(one)}
    for account, spaces in rights(objects).items():
        own = made if account.endswith("-bootstrap-secrets") else {}
        for space, rules in spaces.items():
            known = own | RIGHTS.get(account, {}).get(space, {})
            more = {key: verbs for key, verbs in rules.items() if not set(verbs) <= set(known.get(key, []))}
            assert more == {}, account


def test_nobody_reads_every_secret_or_takes_over_a_pod() -> None:
    for account, spaces in RIGHTS.items():
        for rules in spaces.values():
            assert (
                not {"pods/exec", "pods/attach", "pods/ephemeralcontainers", "serviceaccounts/token"}
                & rules.keys()
            )
            assert (
                not {"roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io"}
                & rules.keys()
            )
            assert set(rules.get("secrets", [])) <= {"create"}, account
            assert not [one for one in rules if "*" in one or "*" in rules[one]], account
