"""The command line without a cluster: its arguments, its messages and its tables."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import yaml
from rich.console import Console
from trainyard_cli import airflow_api, cluster, figures, follow, kube, release, training, workloads
from trainyard_cli.errors import CliError

Command = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def environments() -> list[Path]:
    """The Python environments of this machine, the command line's among them."""
    subprocess.run([ROOT / "scripts/up", "--help"], capture_output=True, check=True)
    return list(Path(os.environ["TRAINYARD_HOME"]).glob("venv-*"))


@pytest.fixture
def command(tmp_path: Path, environments: list[Path]) -> Command:
    """Runs one of scripts/* with a home of its own, in which only the Python environments are there."""
    for each in environments:
        (tmp_path / each.name).symlink_to(each)
    environment = {**os.environ, "TRAINYARD_HOME": str(tmp_path), "COLUMNS": "100"}

    def run(name: str, *words: str) -> subprocess.CompletedProcess[str]:
        program = [ROOT / "scripts" / name, *words]
        return subprocess.run(program, env=environment, capture_output=True, text=True, check=False)

    return run


OTHERS = ("down", "lint", "test", "promote", "diff", "status", "publish", "sbom", "audit")


@pytest.mark.parametrize(
    "name", ["up", "run", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in OTHERS)]
)
def test_help_shows_how_the_command_is_called(command: Command, name: str) -> None:
    result = command(name, "--help")
    assert result.returncode == 0
    assert f"Usage: ./scripts/{name}" in result.stdout


def test_arguments_are_read_before_anything_slow_is_imported() -> None:
    code = "import sys, trainyard_cli.cli; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "typer" in imported
    assert not imported & {"httpx", "jsonschema", "ruamel.yaml", "yaml"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["up", "--airflow-port", "99999"], "65535"),
        (["up", "--no-such-option"], "--no-such-option"),
        (["run"], "Missing argument 'DAG'"),
    ],
)
def test_wrong_arguments_are_named(command: Command, words: list[str], told: str) -> None:
    result = command(*words)
    assert result.returncode == 2
    assert told in result.stderr


def test_fast_and_e2e_exclude_each_other(command: Command) -> None:
    result = command("test", "--fast", "--e2e")
    assert result.returncode == 1
    assert "exclude each other" in result.stderr


def test_run_without_a_cluster_names_the_cure(command: Command) -> None:
    result = command("run", "digits_training")
    assert result.returncode == 1
    assert "there is no cluster" in result.stderr
    assert "cure: ./scripts/up" in result.stderr


def test_status_without_a_cluster_names_the_cure(command: Command) -> None:
    result = command("status")
    assert result.returncode == 1
    assert "there is no cluster" in result.stderr
    assert "--context" in result.stderr


def test_run_tells_where_the_json_is_wrong(command: Command) -> None:
    result = command("run", "digits_training", "--conf", '{"epochs": 3 "seed": 1}')
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert "line 1, column 14" in lines[0]
    assert lines[2].index("^") == lines[1].index('"seed"')


def test_run_takes_only_a_json_object(command: Command) -> None:
    result = command("run", "digits_training", "--conf", "[1, 2]")
    assert result.returncode == 1
    assert "must be a JSON object, not list" in result.stderr


def test_up_refuses_malformed_values_at_once(command: Command, tmp_path: Path) -> None:
    broken = tmp_path / "mine.yaml"
    broken.write_text("gpuPools:\n  ondemand: {gpusPerNode: 1\n")
    result = command("up", "--values", str(broken))
    assert result.returncode == 1
    assert "mine.yaml is not YAML" in result.stderr
    assert "line 3" in result.stderr
    assert "docker" not in result.stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a\n- b\n", "holds no keys and values"),
        ("just words", "holds no keys and values"),
        ("a: 1\n\tb: 2\n", "is not YAML"),
    ],
)
def test_values_must_be_keys_with_values(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(text)
    with pytest.raises(CliError, match=told):
        release.check_values([file])


def test_a_missing_values_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"nothing\.yaml does not exist"):
        release.check_values([tmp_path / "nothing.yaml"])


def test_an_empty_values_file_is_fine(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("# nothing yet\n")
    release.check_values([file])


def test_generated_values_reach_the_keys_of_the_chart() -> None:
    images = {name: f"trainyard/{name}:abc123" for name in release.IMAGE_KEYS}
    given = {"mlflow": {"allowedHosts": ["mlflow.lan"]}}
    assert release.generated_values(images, cluster.Ports(airflow=8081, mlflow=5001), given) == {
        "airflow": {
            "airflowPodAnnotations": {"trainyard.dev/trainer": "trainyard/trainer:abc123"},
            "config": {"api": {"base_url": "http://localhost:8081"}},
            "images": {
                "airflow": {"repository": "trainyard/airflow", "tag": "abc123"},
                "pgbouncer": {"repository": "trainyard/postgres", "tag": "abc123"},
            },
            "dags": {
                "image": {"repository": "trainyard/dags", "tag": "abc123"},
                "git": {"image": {"repository": "trainyard/dag-publisher", "tag": "abc123"}},
            },
        },
        "mlflow": {
            "allowedHosts": ["mlflow.lan", "localhost:5001", "127.0.0.1:5001"],
            "image": {"repository": "trainyard/mlflow", "tag": "abc123"},
        },
        "postgresql": {"image": {"repository": "trainyard/postgres", "tag": "abc123"}},
        "nvidia-device-plugin": {"image": {"repository": "trainyard/gpu-simulator", "tag": "abc123"}},
        "training": {
            "image": {"repository": "trainyard/trainer", "tag": "abc123"},
            "trackingUiUrl": "http://localhost:5001",
        },
        "versitygw": {"image": {"repository": "trainyard/versitygw", "tag": "abc123"}},
    }


def deployment(generation: int = 2, **status: int) -> dict:
    return {
        "metadata": {"generation": generation},
        "spec": {"replicas": 1},
        "status": {
            "observedGeneration": 2,
            "replicas": 1,
            "updatedReplicas": 1,
            "readyReplicas": 1,
            **status,
        },
    }


def test_a_workload_is_ready_when_only_its_newest_version_is_left() -> None:
    assert workloads.is_ready("Deployment", deployment())
    assert not workloads.is_ready("Deployment", deployment(replicas=2)), "an old pod is still there"
    assert not workloads.is_ready("Deployment", deployment(updatedReplicas=0))
    assert not workloads.is_ready("Deployment", deployment(generation=3)), (
        "the controller has not seen the change"
    )
    assert not workloads.is_ready("Job", {"spec": {"completions": 1}, "status": {"active": 1}})
    assert workloads.is_ready("Job", {"spec": {"completions": 1}, "status": {"succeeded": 1}})


def test_a_wrong_dag_id_lists_close_matches_first() -> None:
    error = airflow_api.unknown_dag("digit_training", ["digits_training", "other"])
    assert error.message == 'there is no DAG "digit_training"'
    assert error.cure == "did you mean digits_training? available DAGs: digits_training, other"


def test_a_parameter_that_the_dag_does_not_declare_is_refused() -> None:
    declared = ["epochs", "seed"]
    airflow_api.check_conf("digits_training", {"epochs": 3}, declared)
    with pytest.raises(CliError, match='has no parameter "epoch"') as caught:
        airflow_api.check_conf("digits_training", {"epoch": 3}, declared)
    assert caught.value.cure.startswith("did you mean epochs?")


def test_tasks_come_in_the_order_in_which_they_run() -> None:
    downstream = {"evaluate": [], "preprocess": ["train"], "train": ["evaluate"], "validate": ["preprocess"]}
    assert airflow_api.run_order(downstream) == ["validate", "preprocess", "train", "evaluate"]


NOW = datetime(2026, 11, 21, 12, 1, 0, tzinfo=UTC)


def instance(task_id: str, state: str | None, **more: object) -> dict:
    start = None if state is None else "2026-11-21T12:00:00Z"
    defaults = {"task_id": task_id, "map_index": -1, "state": state, "start_date": start, "end_date": None}
    return {**defaults, "try_number": 1, "max_tries": 2, **more}


def pod(task_id: str, run_id: str = "cli-1", **status: object) -> dict:
    """A training pod as the API server returns it."""
    names = {"dag-id": "digits_training", "run-id": run_id, "task-id": task_id}
    return {
        "metadata": {
            "name": f"digits-training-{task_id}-1",
            "creationTimestamp": "2026-11-21T12:00:01Z",
            "labels": {"trainyard.dev/run-id": "made-safe", "trainyard.dev/map-index": "none"},
            "annotations": {f"trainyard.dev/{name}": value for name, value in names.items()},
        },
        "spec": {"nodeName": "trainyard-worker2"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], **status},
    }


def unschedulable(task_id: str) -> dict:
    message = "0/4 nodes are available: 1 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    waiting = pod(task_id, phase="Pending", conditions=[condition])
    return {**waiting, "spec": {}}


def remembered(*pods: dict) -> dict:
    memory = follow.PodMemory("digits_training", "cli-1")
    memory.observe(pods)
    return memory.pods


def test_the_table_shows_pod_node_state_and_seconds() -> None:
    instances = [
        instance("train", "deferred"),
        instance("validate", "success", end_date="2026-11-21T12:00:09.5Z"),
    ]
    rows = follow.make_rows(["validate", "train"], instances, remembered(pod("train")), NOW)
    console = Console(width=120, record=True)
    console.print(follow.render(rows, "digits_training cli-1: running"))
    lines = console.export_text().splitlines()
    validate = next(line for line in lines if "validate" in line)
    train = next(line for line in lines if "digits-training-train-1" in line)
    assert lines.index(validate) < lines.index(train)
    assert "success" in validate
    assert validate.split()[-2] in ("9", "10")
    assert "trainyard-worker2" in train
    assert "running" in train
    assert train.split()[-2] == "60"


def test_a_waiting_pod_says_why() -> None:
    pods = remembered(unschedulable("train"))
    (row,) = follow.make_rows(["train"], [instance("train", "deferred")], pods, NOW)
    assert (row.state, row.node) == ("pending", "")
    assert "Insufficient nvidia.com/gpu" in row.why


def test_pods_of_other_runs_are_left_out() -> None:
    assert remembered(pod("train", run_id="cli-2")) == {}


def test_worker_pods_are_found_by_the_annotations_that_airflow_gives_them() -> None:
    worker = pod("gate")
    worker["metadata"]["labels"] = {"dag_id": "made-safe"}
    worker["metadata"]["annotations"] = {"dag_id": "digits_training", "run_id": "cli-1", "task_id": "gate"}
    memory = follow.PodMemory("digits_training", "cli-1")
    memory.observe([worker])
    assert list(memory.pods) == [("gate", -1)]


def test_a_pod_is_remembered_after_it_has_gone() -> None:
    memory = follow.PodMemory("digits_training", "cli-1")
    memory.observe([pod("train")])
    memory.observe([])
    assert memory.pods[("train", -1)].node == "trainyard-worker2"


def test_without_a_terminal_a_line_comes_for_each_change_only() -> None:
    before = follow.make_rows(["a", "b"], [instance("a", "running"), instance("b", None)], {}, NOW)
    later = NOW.replace(minute=2)
    same = follow.make_rows(["a", "b"], [instance("a", "running"), instance("b", None)], {}, later)
    done = follow.make_rows(["a", "b"], [instance("a", "success"), instance("b", None)], {}, later)
    assert follow.changes([], before) == [follow.line(before[0])]
    assert follow.changes(before, same) == []
    assert follow.changes(before, done) == [follow.line(done[0])]


def test_a_retry_is_told() -> None:
    (row,) = follow.make_rows(["a"], [instance("a", "up_for_retry")], {}, NOW)
    assert row.why == "try 1 of 3 failed"


def test_the_cause_is_the_last_error_of_the_log() -> None:
    messages = [
        {"event": "something odd", "level": "error"},
        {
            "event": "Task failed",
            "level": "error",
            "error_detail": [{"exc_type": "ValueError", "exc_value": "no data"}],
        },
        {"event": "bye", "level": "info"},
    ]
    assert follow.cause(messages) == "ValueError: no data"
    assert follow.cause(messages[:1]) == "something odd"
    assert follow.cause([]) == "there is no log"


def test_a_pod_that_cannot_start_says_why() -> None:
    state = {"name": "trainer", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
    assert kube.waiting_reason(pod("train", phase="Pending", conditions=[], containerStatuses=[state])) == (
        "trainer: ErrImagePull: not found"
    )
    assert kube.waiting_reason(pod("train")) == ""


def test_an_answer_of_airflow_names_the_field_that_is_wrong() -> None:
    detail = [{"loc": ["body", "conf"], "msg": "Input should be a valid dictionary"}]
    response = httpx.Response(422, json={"detail": detail})
    assert airflow_api._detail(response) == "body.conf: Input should be a valid dictionary"


def test_conf_defaults_to_no_parameters() -> None:
    assert training.parse_conf("{}") == {}


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("", None),
        ("2026-11-27", "2026-11-27T00:00:00+00:00"),
        ("2026-11-27T03:00", "2026-11-27T03:00:00+00:00"),
        ("2026-11-27T03:00+01:00", "2026-11-27T03:00:00+01:00"),
    ],
)
def test_a_logical_date_without_a_zone_is_in_utc(text: str, date: str | None) -> None:
    found = training.parse_date(text)
    assert (found.isoformat() if found else None) == date


def test_a_logical_date_that_is_none_is_refused() -> None:
    with pytest.raises(CliError, match="--logical-date is 'yesterday', which is no date"):
        training.parse_date("yesterday")


def test_every_image_value_is_a_string() -> None:
    values = release.generated_values(
        dict.fromkeys(release.IMAGE_KEYS, "trainyard/any:0123456789"), cluster.Ports(), {}
    )
    text = yaml.safe_dump(values)
    assert yaml.safe_load(text) == values, "a tag of digits only must stay a string"


def test_memory_is_that_of_the_releases_pods_and_of_kueue_the_largest_first() -> None:
    def pod(namespace: str, name: str, *working_sets: int) -> dict:
        containers = [{"memory": {"workingSetBytes": each}} for each in working_sets]
        return {"podRef": {"namespace": namespace, "name": name}, "containers": containers}

    found = figures.pod_memory(
        [
            *(pod("trainyard", "small", 5), pod("kube-system", "other", 99)),
            *(pod("ml-training", "two", 4, 3), pod("kueue-system", "kueue", 6)),
        ]
    )
    assert [(each.pod, each.working_set) for each in found] == [("two", 7), ("kueue", 6), ("small", 5)]


class PendingXComs:
    """What `follow.Waits` asks of Airflow, with one answer."""

    def __init__(self, answer: dict | None) -> None:
        self.answer = answer
        self.questions: list[tuple] = []

    def xcom(self, *question: object) -> dict | None:
        self.questions.append(question)
        return self.answer


BUSY = {"reason": "no GPU free in pool spot: 1 of 1 node is busy (0/4 nodes ...)", "resolved": False}


def test_a_task_that_waits_says_why_in_the_triggerers_words_even_without_a_pod() -> None:
    airflow = PendingXComs(BUSY)
    waits = follow.Waits(airflow, "d", "r")
    rows = follow.make_rows(["train"], [instance("train", "deferred")], {}, NOW)
    told = [follow.with_wait(rows[0], waits).why for _ in range(3)]
    assert told == ["no GPU free in pool spot: 1 of 1 node is busy"] * 3
    assert airflow.questions == [("d", "r", "train", "pending", -1)], "asked now and then only"


def test_a_running_task_is_not_asked_why_it_waits() -> None:
    airflow = PendingXComs(BUSY)
    (row,) = follow.make_rows(["train"], [instance("train", "deferred")], remembered(pod("train")), NOW)
    assert follow.with_wait(row, follow.Waits(airflow, "d", "r")) == row
    assert airflow.questions == []


@pytest.mark.parametrize(
    ("pending", "lines"),
    [
        (
            {**BUSY, "resolved": True, "waited_seconds": 42.3},
            ["train[2] waited 42 s: no GPU free in pool spot"],
        ),
        ({**BUSY, "resolved": True, "waited_seconds": 2.0}, []),
        (None, []),
    ],
)
def test_the_summary_tells_of_long_waits(pending: dict | None, lines: list[str]) -> None:
    waits = follow.Waits(PendingXComs(pending), "d", "r")
    waits.why(("train", 2))
    assert [line.partition(": 1 of")[0] for line in waits.long_ones()] == lines
