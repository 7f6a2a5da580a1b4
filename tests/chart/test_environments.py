"""values/environments: each renders as Argo CD would do it, and a diff shows what Argo CD would apply."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from render import HELM, ROOT
from repositories import CHART, DIGESTS, Checkout, environment, file
from trainyard_cli import diff, environments
from trainyard_cli.diff import Result
from trainyard_cli.errors import CliError
from trainyard_cli.git import Repository
from trainyard_cli.rendering import Renderer, image_references, renderer

SHIPPED = Repository(ROOT)
NAMES = ("dev", "staging", "production")


def helm() -> Path:
    found = shutil.which(HELM)
    assert found, "./scripts/test puts helm on the PATH"
    return Path(found)


@pytest.fixture
def rendered() -> Iterator[Renderer]:
    with renderer(helm(), SHIPPED) as found:
        yield found


@pytest.mark.parametrize("name", NAMES)
def test_an_environment_renders_at_its_own_revision(rendered: Renderer, name: str) -> None:
    if SHIPPED.git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("a shallow clone lacks the pinned commits")
    tree = SHIPPED.tree(None)
    objects = rendered.objects(environments.read(SHIPPED, tree, name), tree)
    assert {"Deployment", "Job", "ConfigMap"} <= {one["kind"] for one in objects}


@pytest.mark.parametrize("name", ["staging", "production"])
def test_every_image_of_a_promoted_environment_has_a_digest(rendered: Renderer, name: str) -> None:
    tree = SHIPPED.tree(None)
    # With the chart of this revision: it is what the next promotion brings.
    next_one = dataclasses.replace(environments.read(SHIPPED, tree, name), revision="HEAD")
    found = image_references(rendered.objects(next_one, tree))
    assert len(found) >= 5
    assert [each for each in found if "@sha256:" not in each] == []


# ---- revisions compared


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """dev follows main, production runs the first commit."""
    checkout = Checkout(tmp_path)
    first = checkout.commit("Make the chart", CHART)
    production = environment("a", promotedFrom="dev", revision=first)
    checkout.commit("Add environments", {file("dev"): environment("b"), file("production"): production})
    return checkout


def compare(checkout: Checkout, old: str, new: str | None = None, *only: str) -> dict[str, Result]:
    results = diff.compare_revisions(helm(), checkout.repository, old, new, list(only))
    return {each.environment: each for each in results}


def summaries(results: dict[str, Result]) -> dict[str, str]:
    return {name: result.summary for name, result in results.items()}


def test_the_same_is_no_difference(checkout: Checkout) -> None:
    assert summaries(compare(checkout, "main")) == dict.fromkeys(("dev", "production"), "no difference")


def test_a_changed_chart_concerns_what_follows_it(checkout: Checkout) -> None:
    checkout.write({"values/base.yaml": "replicas: 4\n"})
    found = compare(checkout, "main")
    assert summaries(found) == {"dev": "1 changed", "production": "no difference"}
    assert [line for line in found["dev"].changes[0].lines if line[0] in "+-"] == [
        "-  replicas: 2",
        "+  replicas: 4",
    ]
    assert found["dev"].chart == "main -> the working tree"


def test_an_environments_own_values_concern_it_alone(checkout: Checkout) -> None:
    checkout.commit("Three", {"values/environments/production/values.yaml": "replicas: 3\n"})
    assert summaries(compare(checkout, "main~1", "main")) == {
        "dev": "no difference",
        "production": "1 changed",
    }
    assert list(compare(checkout, "main~1", "main", "dev")) == ["dev"]


def test_a_promotion_shows_chart_and_images(checkout: Checkout) -> None:
    main = checkout.commit("Five", {"values/base.yaml": "replicas: 5\n"})
    checkout.commit("Promote", {file("production"): environment("b", promotedFrom="dev", revision=main)})
    (deployment, job) = compare(checkout, "main~1", "main")["production"].changes
    assert {"-  replicas: 2", "+  replicas: 5"} <= set(deployment.lines)
    assert any(DIGESTS["b"] in line for line in deployment.lines if line[0] == "+")
    assert job.what == "changed", "a Job of another hash is no other Job"


def test_images_win_over_values_and_values_over_value_files(checkout: Checkout) -> None:
    checkout.write(
        {"values/environments/dev/values.yaml": "replicas: 7\nimage: {tag: '9', repository: other}\n"}
    )
    tree = checkout.repository.tree(None)
    with renderer(helm(), checkout.repository) as found:
        objects = found.objects(environments.read(checkout.repository, tree, "dev"), tree)
    spec = next(one["spec"] for one in objects if one["kind"] == "Deployment")
    image = spec["template"]["spec"]["containers"][0]["image"]
    assert (spec["replicas"], image) == (7, f"registry.example.com/model:1@{DIGESTS['b']}")


def test_an_environment_that_comes_or_goes(checkout: Checkout) -> None:
    assert summaries(compare(checkout, "main~1", "main"))["dev"] == "2 added"
    assert summaries(compare(checkout, "main", "main~1"))["dev"] == "2 removed"


def test_a_revision_that_does_not_render_says_why(checkout: Checkout) -> None:
    checkout.write({"values/environments/dev/values.yaml": "replicas: many\n"})
    found = compare(checkout, "main")
    assert found["dev"].broken and "got string, want integer" in found["dev"].error
    assert "values/environments/dev/values.yaml" in found["dev"].error
    assert summaries(found)["production"] == "no difference"
    checkout.commit("Break it")
    checkout.write({"values/environments/dev/values.yaml": "replicas: 1\n"})
    mended = compare(checkout, "main")["dev"]
    assert not mended.broken and mended.summary == "cannot be compared"


def test_a_values_file_outside_of_the_repository_is_refused(checkout: Checkout) -> None:
    outside = "../../../outside.yaml"
    (checkout.root.parent / "outside.yaml").write_text("replicas: 1\n")
    checkout.write({file("dev"): environment(valueFiles=[outside])})
    assert f"valueFiles: {outside} is not at revision main" in compare(checkout, "main")["dev"].error


def test_an_unknown_environment_is_refused(checkout: Checkout) -> None:
    with pytest.raises(CliError, match="no environment prod"):
        compare(checkout, "main", None, "prod")
