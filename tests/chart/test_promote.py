"""Promotion: one commit that takes images and revision over, refused where the target would not render."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from render import HELM
from repositories import CHART, DIGESTS, Checkout, environment, file
from trainyard_cli import environments, promote
from trainyard_cli.environments import PLACEHOLDER
from trainyard_cli.errors import CliError
from trainyard_cli.promote import Promotion


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """dev follows main, staging and production run the first commit."""
    checkout = Checkout(tmp_path / "checkout")
    first = checkout.commit("Make the chart", CHART)
    files = {
        file("dev"): environment("b"),
        file("staging"): "# Ours.\n" + environment("a", promotedFrom="dev", revision=first),
        file("production"): environment("a", promotedFrom="staging", revision=first),
    }
    checkout.commit("Add environments", files)
    template = CHART["charts/trainyard/templates/all.yaml"].replace(
        "spec:\n  replicas", "spec:\n  paused: true\n  replicas"
    )
    checkout.commit("Pause the model", {"charts/trainyard/templates/all.yaml": template})
    return checkout


def prepare(checkout: Checkout, source: str, target: str, revision: str | None = None) -> Promotion | None:
    helm = shutil.which(HELM)
    assert helm, "./scripts/test puts helm on the PATH"
    return promote.prepare(Path(helm), checkout.repository, source, target, revision)


def prepared(checkout: Checkout, source: str, target: str, revision: str | None = None) -> Promotion:
    promotion = prepare(checkout, source, target, revision)
    assert promotion is not None
    return promotion


def test_a_promotion_is_one_commit_that_writes_one_file(checkout: Checkout) -> None:
    main = checkout.git("rev-parse", "main")
    name, commit = promote.commit(checkout.repository, prepared(checkout, "dev", "staging"))
    assert checkout.git("log", "--format=%P", "-1", commit) == main
    assert checkout.git("diff", "--name-only", "main", name) == file("staging")
    text = checkout.repository.tree(name).read(file("staging"))
    assert text is not None and text.startswith("# Ours.\n")
    written = yaml.safe_load(text)["environment"]
    assert (written["revision"], written["images"]["image"]["digest"]) == (main, DIGESTS["b"])
    assert written["promotedFrom"] == "dev"
    assert checkout.git("status", "--porcelain") == ""


def test_the_message_lists_images_and_commits(checkout: Checkout) -> None:
    first, main = checkout.git("rev-parse", "main~2", "main").split()
    assert prepared(checkout, "dev", "staging").message.splitlines() == [
        "Promote dev to staging",
        "",
        f"Chart: {first[:12]} -> {main[:12]}",
        f"  {checkout.git('log', '-1', '--format=%h %s', 'main')}",
        f"  {checkout.git('log', '-1', '--format=%h %s', 'main~1')}",
        "",
        "Images:",
        "  image",
        f"    registry.example.com/model:1@{DIGESTS['a']}",
        f"    -> registry.example.com/model:1@{DIGESTS['b']}",
    ]


def test_what_changes_in_the_cluster_is_shown(checkout: Checkout) -> None:
    deployment, job = prepared(checkout, "dev", "staging").changes.changes
    assert deployment.title == "Deployment ml/model" and "+  paused: true" in deployment.lines
    assert job.what == "changed" and job.title.startswith("Job ml/migrate-")


def test_going_back_names_the_commits_that_are_lost(checkout: Checkout) -> None:
    name, _ = promote.commit(checkout.repository, prepared(checkout, "dev", "staging"))
    checkout.git("merge", "--quiet", "--ff-only", name)
    back = prepared(checkout, "dev", "staging", revision="main~3")
    assert "Not in it any more:" in back.message and "Pause the model" in back.message
    assert "Images:" not in back.message


def test_a_branch_is_taken_from_the_remote_unless_it_is_asked_for(checkout: Checkout, tmp_path: Path) -> None:
    theirs = checkout.git("rev-parse", "main")
    checkout.git("clone", "--quiet", "--bare", ".", str(tmp_path / "remote.git"))
    checkout.git("remote", "add", "origin", str(tmp_path / "remote.git"))
    checkout.git("fetch", "--quiet", "origin")
    mine = checkout.commit("Not pushed")
    followed, asked = prepared(checkout, "dev", "staging"), prepared(checkout, "dev", "staging", "main")
    assert (followed.after.revision, followed.warnings) == (theirs, [])
    assert asked.after.revision == mine
    assert "is on no branch of a remote" in asked.warnings[0]


def test_a_tag_stays_a_tag(checkout: Checkout) -> None:
    checkout.git("tag", "v2")
    promotion = prepared(checkout, "dev", "staging", "v2")
    assert promotion.after.revision == "v2"
    assert "-> v2" in promotion.message


def test_from_environment_to_environment(checkout: Checkout) -> None:
    name, _ = promote.commit(checkout.repository, prepared(checkout, "dev", "staging"), "ready")
    assert name == "ready"
    checkout.git("merge", "--quiet", "--ff-only", name)
    assert prepare(checkout, "dev", "staging", "main~1") is None, "nothing to promote"
    promotion = prepared(checkout, "staging", "production")
    staging = environments.read(checkout.repository, checkout.repository.tree("HEAD"), "staging")
    assert (promotion.after.revision, promotion.after.images) == (staging.revision, staging.images)


def test_the_same_promotion_has_the_same_branch(checkout: Checkout) -> None:
    first = prepared(checkout, "dev", "staging")
    assert first.branch == prepared(checkout, "dev", "staging").branch
    promote.commit(checkout.repository, first)
    with pytest.raises(CliError, match="there is a branch promote/staging-"):
        promote.commit(checkout.repository, first)


def test_changes_elsewhere_do_not_matter(checkout: Checkout) -> None:
    checkout.write({"values/base.yaml": "replicas: 9\n", "other": "mine\n"})
    promote.commit(checkout.repository, prepared(checkout, "dev", "staging"))
    assert checkout.git("status", "--porcelain").split() == ["M", "values/base.yaml", "??", "other"]
    assert (checkout.root / "values/base.yaml").read_text() == "replicas: 9\n"


def test_images_that_the_source_no_longer_has_are_removed(checkout: Checkout) -> None:
    images = {
        "image": {"repository": "r", "digest": DIGESTS["a"]},
        "old": {"image": {"repository": "o", "digest": DIGESTS["c"]}},
    }
    first = checkout.git("rev-parse", "main~2")
    checkout.commit("Add", {file("staging"): environment(promotedFrom="dev", revision=first, images=images)})
    promotion = prepared(checkout, "dev", "staging")
    assert "old" not in promotion.after.images
    assert f"  old.image\n    o@{DIGESTS['c']}\n    -> none" in promotion.message


def test_a_target_that_does_not_render_now_can_be_promoted(checkout: Checkout) -> None:
    checkout.commit("Break", {"values/environments/staging/values.yaml": "paused: true\n"})
    schema = '{"properties": {"paused": {"const": true}}, "required": ["paused"]}\n'
    checkout.commit("Need it", {"charts/trainyard/values.schema.json": schema})
    checkout.git("tag", "v2")
    text = checkout.repository.tree("HEAD").read(file("staging"))
    assert text is not None
    checkout.commit(
        "Name a lost revision", {file("staging"): text.replace(checkout.git("rev-parse", "main~4"), "f" * 40)}
    )
    promotion = prepared(checkout, "dev", "staging", "v2")
    assert "revision ffff" in promotion.changes.error
    assert "is not in this clone" in promotion.message


# ---- refused


def refuse(
    checkout: Checkout, source: str, target: str, message: str, cure: str, revision: str | None = None
) -> None:
    with pytest.raises(CliError) as refused:
        prepare(checkout, source, target, revision)
    assert message in refused.value.message, refused.value
    assert cure in refused.value.cure, refused.value
    assert checkout.git("branch", "--format=%(refname:short)") == "main"


@pytest.mark.parametrize(
    ("source", "target", "message", "cure"),
    [
        ("dev", "dev", "cannot be promoted to itself", "two environments"),
        ("dev", "stagin", "no environment stagin", "did you mean staging?"),
        ("test", "staging", "no environment test", "dev, production, staging"),
        (
            "dev",
            "production",
            "promoted from staging, not from dev",
            "promote dev to staging first, then ./scripts/promote staging production",
        ),
        ("staging", "dev", "dev takes no promotions", "promotedFrom: staging"),
    ],
)
def test_a_wrong_order_is_refused(
    checkout: Checkout, source: str, target: str, message: str, cure: str
) -> None:
    refuse(checkout, source, target, message, cure)


def test_an_unknown_revision_is_refused(checkout: Checkout) -> None:
    refuse(checkout, "dev", "staging", "revision nowhere is not in this clone", "git fetch", "nowhere")


def test_an_image_without_a_digest_is_refused_by_its_key(checkout: Checkout) -> None:
    checkout.commit("Forget it", {file("dev"): environment(None)})
    refuse(checkout, "dev", "staging", "environment.images.image.digest is missing", "push the images")


def test_a_placeholder_is_refused_by_its_key(checkout: Checkout) -> None:
    checkout.commit("Take zeros", {file("dev"): environment().replace(DIGESTS["a"], PLACEHOLDER)})
    refuse(checkout, "dev", "staging", "environment.images.image.digest is a placeholder", "push the images")


def test_an_image_that_no_key_pins_is_refused(checkout: Checkout) -> None:
    template = (
        CHART["charts/trainyard/templates/all.yaml"]
        + "---\n{apiVersion: v1, kind: Pod, metadata: {name: p}, image: 'x:1'}\n"
    )
    checkout.commit("Add a pod", {"charts/trainyard/templates/all.yaml": template})
    refuse(checkout, "dev", "staging", "images without a digest: x:1", file("dev"))


def test_changes_that_are_not_committed_are_refused(checkout: Checkout) -> None:
    checkout.write({"values/environments/staging/values.yaml": "replicas: 3\n"})
    refuse(
        checkout,
        "dev",
        "staging",
        "not committed: values/environments/staging/values.yaml",
        "commit or stash",
    )


def test_values_that_the_new_chart_refuses_are_named(checkout: Checkout) -> None:
    checkout.commit("Set it", {"values/environments/staging/values.yaml": "replicas: 3\n"})
    schema = '{"properties": {"replicas": {"type": "integer", "maximum": 2}}}\n'
    checkout.commit("Allow two", {"charts/trainyard/values.schema.json": schema})
    message = "staging does not render with the chart of"
    refuse(checkout, "dev", "staging", message, "values/environments/staging/values.yaml")
    with pytest.raises(CliError, match="/replicas"):
        prepare(checkout, "dev", "staging")
