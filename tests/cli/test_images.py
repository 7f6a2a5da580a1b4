"""Which images are rebuilt, where they go, and which are removed."""

import re
import shutil
from pathlib import Path

import pytest
from trainyard_cli import images, paths
from trainyard_cli.errors import CliError
from trainyard_cli.shell import run

NODES = {"control-plane": ["cp"], "cpu": ["worker"], "ondemand": ["worker2", "worker3"], "spot": ["worker4"]}
COPY = re.compile(r"^COPY (?!--from)(.+) \S+$|--mount=type=bind,source=([^,\s]+)", re.MULTILINE)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the images are built from, to be changed."""
    for name in ("images", "library", "dags"):
        shutil.copytree(paths.ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(paths.ROOT / ".dockerignore", tmp_path)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


def references() -> dict[str, str]:
    return {name: images.reference(name, "sha256:base") for name in images.IMAGES}


def changed(before: dict[str, str]) -> set[str]:
    return {name for name, reference in references().items() if reference != before[name]}


@pytest.mark.parametrize(
    ("file", "rebuilt"),
    [
        ("dags/digits_training.py", {"dags"}),
        ("library/trainyard/policy.py", {"airflow"}),
        ("images/dag-publisher/src/dag_publisher.py", {"dag-publisher"}),
        ("library/trainyard_contract.py", {"airflow", "trainer"}),
        ("images/trainer/src/trainyard_trainer/cli.py", {"trainer"}),
        ("images/mlflow/requirements.txt", {"mlflow"}),
        ("images/postgres/entrypoint", {"postgres"}),
        ("images/versitygw/go/go.sum", {"versitygw"}),
        ("images/argocd/go/go.mod", {"argocd"}),
        ("images/kueue/go/go.sum", {"kueue"}),
        ("images/kind-node/go/helm/go.sum", {"argocd"}),
        ("images/git-server/serve", {"git-server"}),
        ("images/python/uv.txt", set(images.IMAGES)),
        ("images/mlflow/requirements.in", set()),
        ("images/python/README.md", set()),
        ("dags/__pycache__/x.cpython-311.pyc", set()),
        ("charts/trainyard/values.yaml", set()),
    ],
)
def test_only_images_made_from_a_changed_file_are_rebuilt(
    checkout: Path, file: str, rebuilt: set[str]
) -> None:
    before = references()
    path = checkout / file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write("\n# changed\n")
    assert changed(before) == rebuilt


def test_another_module_is_another_exporter(checkout: Path) -> None:
    before = images.reference("statsd-exporter", "sha256:base")
    with (checkout / "images/statsd-exporter/go/go.mod").open("a") as stream:
        stream.write("\n// changed\n")
    assert images.reference("statsd-exporter", "sha256:base") != before


def test_renamed_file_and_changed_mode_count_as_changes(checkout: Path) -> None:
    before = references()
    (checkout / "dags/digits_training.py").rename(checkout / "dags/renamed.py")
    (checkout / "images/postgres/entrypoint").chmod(0o644)
    assert changed(before) == {"dags", "postgres"}


@pytest.mark.parametrize(
    ("file", "rebuilt"),
    [
        ("requirements-cuda.txt", {"trainer-cuda"}),
        ("requirements.txt", {"trainer"}),
        ("unpack-torch", {"trainer"}),
        ("Dockerfile", {"trainer", "trainer-cuda"}),
    ],
)
def test_the_trainer_with_cuda_is_made_of_its_own_lock(checkout: Path, file: str, rebuilt: set[str]) -> None:
    names = ("trainer", "trainer-cuda")
    before = {name: images.reference(name, "sha256:base") for name in names}
    with (checkout / "images/trainer" / file).open("a") as stream:
        stream.write("\n# changed\n")
    assert {name for name in names if images.reference(name, "sha256:base") != before[name]} == rebuilt


def test_another_base_image_rebuilds_everything() -> None:
    for name, reference in references().items():
        assert re.fullmatch(rf"trainyard/{name}:[0-9a-f]{{12}}", reference)
        assert images.reference(name, "sha256:other") != reference


def test_a_trainer_knows_the_last_commit_of_its_files(checkout: Path) -> None:
    def commit() -> str:
        git("add", "-A")
        git("commit", "--quiet", "-m", "A change")
        return git("rev-parse", "HEAD")

    def git(*words: str) -> str:
        return run(["git", *words], cwd=checkout).stdout.strip()

    def told() -> tuple[str, str]:
        return images._commit("trainer"), images.reference("trainer", "sha256:base")

    assert told()[0] == ""
    git("init", "--quiet")
    first = commit()
    before = told()
    assert before[0] == first
    (checkout / "dags/digits_training.py").unlink()
    commit()
    assert told() == before, "what it is not made of is no change"
    file = checkout / "images/trainer/src/trainyard_trainer/cli.py"
    file.write_text(f"{file.read_text()}# changed\n")
    dirty = told()
    assert dirty[0] == f"{first}-dirty"
    committed = commit()
    assert told()[0] == committed
    assert told()[1] != dirty[1], "it is built anew, as the first one says -dirty"


def test_missing_input_is_named(checkout: Path) -> None:
    (checkout / "images/mlflow/requirements.txt").unlink()
    with pytest.raises(CliError, match=r"images/mlflow/requirements\.txt is missing"):
        references()


@pytest.mark.parametrize("name", [*images.IMAGES, *images.FOR_TESTS])
def test_hash_covers_everything_that_the_dockerfile_reads(name: str) -> None:
    hashed = [paths.ROOT / each for each in {**images.IMAGES, **images.FOR_TESTS}[name].inputs]
    dockerfile = (paths.ROOT / f"images/{name}/Dockerfile").read_text()
    # Other targets' lock files, and directories that are mounted for a few scripts of theirs.
    other_targets = {"requirements-test.txt", "requirements-cuda.txt", "requirements-cuda-test.txt"}
    mounts = {f"images/{name}", "images/python"}
    # What is built of Go modules, which are hashed, and laid out in a build context of its own.
    programs = {"bin/argocd", "bin/helm", "bin/kueue", "bin/statsd_exporter"}
    for copied, mounted in COPY.findall(dockerfile):
        for source in set((copied or mounted).split()) - programs:
            path = paths.ROOT / source
            assert path.exists(), source
            if path.name not in other_targets and source not in mounts:
                assert any(path.is_relative_to(each) for each in hashed), source


def test_images_go_only_to_nodes_that_run_them() -> None:
    gpu = ["worker2", "worker3", "worker4"]
    expected = {
        "airflow": ["worker"],
        "dags": ["worker"],
        "dag-publisher": ["worker"],
        "git-server": ["worker"],
        "mlflow": ["worker"],
        "postgres": ["worker"],
        "trainer": ["worker", *gpu],
        "versitygw": ["worker"],
        "gpu-simulator": gpu,
        "redis": ["worker"],
        "argocd": ["worker"],
        "kueue": ["worker"],
    }
    assert {name: images.target_nodes(name, NODES) for name in images.IMAGES} == expected


def test_images_beside_the_release_are_made_only_where_they_are_wanted() -> None:
    release = set(images.wanted())
    assert set(images.wanted(images.ARGOCD)) - release == {"argocd", "git-server", "redis"}
    assert set(images.wanted(images.KUEUE)) - release == {"kueue"}


@pytest.mark.parametrize(
    ("tags", "removed"),
    [
        (["new"], []),
        (["new", "old"], []),
        (["new", "old", "older", "oldest"], ["older", "oldest"]),
        (["old", "older", "new"], ["older"]),
    ],
)
def test_the_current_tag_and_the_one_before_stay(tags: list[str], removed: list[str]) -> None:
    assert images.superseded(tags, "new") == removed


def test_runs_find_the_dags_that_they_started_with() -> None:
    tags = [str(number) for number in range(30)]
    assert images.superseded(tags, "0", images.IMAGES["dags"].kept_tags) == tags[20:]
