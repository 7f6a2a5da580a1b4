"""environment.yaml: what is refused, with the key and the cure, and how it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from repositories import DIGESTS, Checkout, environment, file
from trainyard_cli import environments, paths
from trainyard_cli.environments import PLACEHOLDER, Environment
from trainyard_cli.errors import CliError
from trainyard_cli.git import Repository
from trainyard_cli.pins import pinned

SHIPPED = Repository(paths.ROOT)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def read(checkout: Checkout, name: str = "dev") -> Environment:
    return environments.read(checkout.repository, checkout.repository.tree(None), name)


def shipped() -> list[Environment]:
    tree = SHIPPED.tree(None)
    return [environments.read(SHIPPED, tree, name) for name in environments.names(tree)]


def image(**fields: Any) -> dict[str, Any]:
    return {"images": {"mlflow": {"image": {"repository": "r", "tag": "1", **fields}}}}


def test_the_shipped_ones_are_right_and_in_this_order() -> None:
    found = shipped()
    assert {each.name: each.promoted_from for each in found} == {
        "dev": None,
        "staging": "dev",
        "production": "staging",
    }
    assert not SHIPPED.is_exact(next(each.revision for each in found if each.name == "dev"))


@pytest.mark.parametrize(
    ("fields", "message", "cure"),
    [
        ({"revison": "main"}, "unknown key environment.revison", "did you mean revision?"),
        ({"revision": 1234567}, "environment.revision: 1234567 is not of type 'string'", "in quotes"),
        ({"namespace": "My_Space"}, "environment.namespace: 'My_Space' does not match", "lower-case"),
        ({"server": "kubernetes.default.svc"}, "environment.server: ", "as Argo CD knows it"),
        ({"valueFiles": ["/etc/values.yaml"]}, "environment.valueFiles.0: ", "relative to"),
        ({"valueFiles": "base.yaml"}, "environment.valueFiles: 'base.yaml' is not of type", "relative to"),
        (image(digest="sha256:1"), "environment.images.mlflow.image.digest: 'sha256:1'", "64 hex digits"),
        (image(tag=1), "environment.images.mlflow.image.tag: 1 is not of type 'string'", "in quotes"),
        (
            image(pullPolicy="Always"),
            "unknown key environment.images.mlflow.image.pullPolicy",
            "repository, tag",
        ),
        (
            {"images": {"mlflow": {"image": {"tag": "1"}}}},
            "environment.images.mlflow.image.repository",
            "write it",
        ),
        (
            {"images": {"mlflow": {"image": {"repository": "r"}}}},
            "image has neither a tag nor a digest",
            "digest",
        ),
        (
            {"images": {"mlflow": "r:1"}},
            "environment.images.mlflow: 'r:1' is not of type 'object'",
            "below it the image",
        ),
    ],
)
def test_a_wrong_key_is_named_with_its_cure(
    checkout: Checkout, fields: dict[str, Any], message: str, cure: str
) -> None:
    checkout.write({file("dev"): environment(**fields)})
    with pytest.raises(CliError) as refused:
        read(checkout)
    assert refused.value.message.startswith(file("dev"))
    assert message in refused.value.message
    assert cure in refused.value.cure


@pytest.mark.parametrize("missing", ["server", "namespace", "release", "revision", "valueFiles", "images"])
def test_a_missing_key_is_named_with_its_meaning(checkout: Checkout, missing: str) -> None:
    content = yaml.safe_load(environment())
    del content["environment"][missing]
    checkout.write({file("dev"): yaml.safe_dump(content)})
    with pytest.raises(CliError, match=f"environment.{missing} is missing") as refused:
        read(checkout)
    assert refused.value.cure.startswith("write it: ")


def test_what_is_not_yaml_names_the_line(checkout: Checkout) -> None:
    checkout.write({file("dev"): "environment: {"})
    with pytest.raises(CliError, match=r"(?s)dev/environment.yaml is not YAML.*line 1"):
        read(checkout)


def test_values_that_are_no_mapping_are_refused(checkout: Checkout) -> None:
    checkout.write({file("dev"): environment(), "values/environments/dev/values.yaml": "- a\n"})
    with pytest.raises(CliError, match=r"dev/values.yaml holds no keys and values"):
        read(checkout)


def test_an_unknown_environment_lists_those_that_are_there(checkout: Checkout) -> None:
    checkout.write({file("dev"): environment(), file("production"): environment()})
    with pytest.raises(CliError, match="there is no environment producton in the working tree") as refused:
        read(checkout, "producton")
    assert refused.value.cure == "did you mean production? the environments: dev, production"


def test_no_two_shipped_ones_are_in_one_place() -> None:
    places = [(each.server, each.namespace) for each in shipped()]
    assert len(set(places)) == len(places) > 1


def test_what_is_promoted_has_digests(checkout: Checkout) -> None:
    checkout.write({file("dev"): environment(None, promotedFrom="test")})
    with pytest.raises(CliError, match=r"missing: environment\.images\.image\.digest") as refused:
        read(checkout)
    assert refused.value.cure == "./scripts/promote test dev writes them"


def test_what_is_promoted_has_an_exact_revision(checkout: Checkout) -> None:
    checkout.commit("First", {file("dev"): environment(promotedFrom="test")})
    with pytest.raises(CliError, match="main is neither a commit nor a tag"):
        read(checkout)
    checkout.git("tag", "v1")
    checkout.write({file("dev"): environment(promotedFrom="test", revision="v1")})
    assert read(checkout).revision == "v1"


def test_placeholders_are_no_digests() -> None:
    found = environments.read(SHIPPED, SHIPPED.tree(None), "production")
    placed = yaml.safe_load((paths.ROOT / file("production")).read_text())["environment"]["images"]
    assert PLACEHOLDER in yaml.safe_dump(placed)
    assert "mlflow.image" in environments.placeholders(found)


def test_comments_and_order_stay_when_images_are_written() -> None:
    before = """\
# What this is.
environment:
  revision: "v1" # the old one
  # Ours.
  images:
    gone: {image: {repository: g, tag: a}}
    mlflow:
      image: # MLflow's
        tag: "1"
        repository: r # ours
  server: x
"""
    images = {
        "mlflow": {"image": {"repository": "r", "tag": "2", "digest": DIGESTS["a"]}},
        "training": {"image": {"repository": "t", "digest": DIGESTS["b"]}},
    }
    after = pinned(before, images, "v2")
    assert yaml.safe_load(after) == {"environment": {"revision": "v2", "images": images, "server": "x"}}
    assert after.splitlines()[:8] == [
        "# What this is.",
        "environment:",
        '  revision: "v2" # the old one',
        "  # Ours.",
        "  images:",
        "    mlflow:",
        "      image: # MLflow's",
        '        tag: "2"',
    ]


@pytest.mark.parametrize(
    "tag", ["1", "0123456789", "12345e67", "1_000", "0x1f", "12:30", "yes", "1.10", "0.1.0"]
)
def test_a_tag_stays_text(tag: str) -> None:
    before = "environment: {revision: a, images: {image: {repository: r, tag: b}}}\n"
    after = pinned(before, {"image": {"repository": "r", "tag": tag}}, tag)
    content = yaml.safe_load(after)["environment"]
    assert (content["revision"], content["images"]["image"]["tag"]) == (tag, tag)


def test_the_shipped_files_are_written_back_as_they_are() -> None:
    for found in shipped():
        text = (paths.ROOT / found.file).read_text()
        assert pinned(text, found.images, found.revision) == text
