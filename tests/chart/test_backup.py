"""Backups: what is saved in which order, that one is complete or absent, and what a restore refuses."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from render import CHART, Object, containers, environment, find, pod_spec, render_chart
from test_invariants import check_pod_security
from test_scripts import load

ON: Object = {"backup": {"enabled": True}}
FILES = CHART / "files/backup"
POSTGRES = Path("/usr/lib/postgresql/15/bin")


def steps(cron_job: Object) -> list[str]:
    """The names of the containers in the order in which they run."""
    spec = pod_spec(cron_job)
    return [each["name"] for each in (*spec["initContainers"], *spec["containers"])]


# ---- the chart


def test_without_the_switch_there_is_nothing_of_it() -> None:
    assert not [one for one in render_chart() if one["metadata"]["name"].startswith("trainyard-backup")]


def test_what_says_something_of_another_is_saved_before_it_and_restored_after_it() -> None:
    objects = render_chart(values=ON)
    backup, restore = (find(objects, "CronJob", f"trainyard-{name}") for name in ("backup", "restore"))
    assert steps(backup) == ["connections", "dump", "save"]
    dump = next(each for each in containers(backup) if each["name"] == "dump")
    assert environment(dump)["DATABASES"] == "airflow mlflow"
    assert steps(restore) == ["fetch", "check-airflow", "check-mlflow", "artifacts", "databases"]
    assert restore["spec"]["suspend"] is True and backup["spec"]["suspend"] is False


def test_pods_are_restricted_and_have_no_token() -> None:
    objects = render_chart(values=ON)
    for name in ("backup", "restore"):
        cron_job = find(objects, "CronJob", f"trainyard-{name}")
        spec = pod_spec(cron_job)
        check_pod_security(spec, containers(cron_job), "trainyard")
        assert spec["automountServiceAccountToken"] is False
        assert spec["serviceAccountName"] == "trainyard-backup"


def test_the_schemas_are_checked_by_the_images_of_the_release() -> None:
    objects = render_chart(values=ON)
    images = {
        each["name"]: each["image"] for each in containers(find(objects, "CronJob", "trainyard-restore"))
    }
    scheduler = containers(find(objects, "Deployment", "trainyard-scheduler"))[-1]
    server = containers(find(objects, "Deployment", "trainyard-mlflow"))[-1]
    database = containers(find(objects, "StatefulSet", "trainyard-postgresql"))[0]
    assert images["check-airflow"] == scheduler["image"] and images["check-mlflow"] == server["image"]
    assert images["databases"] == database["image"]


def test_a_volume_of_one_node_is_mounted_where_mlflow_runs() -> None:
    objects = render_chart(values=ON)
    spec = pod_spec(find(objects, "CronJob", "trainyard-backup"))
    (term,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    server = find(objects, "Deployment", "trainyard-mlflow")["spec"]["template"]["metadata"]["labels"]
    assert term["labelSelector"]["matchLabels"].items() <= server.items()
    assert [volume["name"] for volume in spec["volumes"] if "persistentVolumeClaim" in volume] == [
        "backups",
        "artifacts",
    ]
    shared = {"mlflow": {"artifacts": {"persistence": {"accessMode": "ReadWriteMany"}}}}
    assert "affinity" not in pod_spec(find(render_chart(values=ON | shared), "CronJob", "trainyard-backup"))


def test_the_claim_stays_and_is_mounted_at_once() -> None:
    objects = render_chart(values=ON)
    claim = find(objects, "PersistentVolumeClaim", "trainyard-backups")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    volumes = pod_spec(find(objects, "Job", "trainyard-backup-place"))["volumes"]
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in volumes
        if "persistentVolumeClaim" in volume
    ]
    assert "trainyard-backups" in claims


def test_a_container_has_the_secrets_that_it_needs_and_no_other() -> None:
    objects = render_chart(values=ON)
    urls = {
        each["name"]: {name for name in environment(each) if name.startswith("URL_")}
        for name in ("backup", "restore")
        for each in containers(find(objects, "CronJob", f"trainyard-{name}"))
    }
    both = {"URL_AIRFLOW", "URL_MLFLOW"}
    assert {name for name, found in urls.items() if found} == {"connections", "fetch"}
    assert urls["connections"] == urls["fetch"] == both
    (check,) = containers(find(objects, "Job", "trainyard-backup-place"))
    assert not both & environment(check).keys()


def test_a_bucket_in_place_of_the_volume() -> None:
    objects = render_chart(files=("production.yaml", "backup.yaml"))
    cron_job = find(objects, "CronJob", "trainyard-backup")
    save = next(each for each in containers(cron_job) if each["name"] == "save")
    assert environment(save)["PLACE"] == "s3://example-backups/trainyard"
    assert save["envFrom"] == [{"secretRef": {"name": "trainyard-backup"}}]
    assert not [
        one
        for one in objects
        if one["kind"] == "PersistentVolumeClaim" and one["metadata"]["name"] == "trainyard-backups"
    ]


def test_artifacts_of_the_embedded_object_store_are_saved_by_mlflows_account() -> None:
    objects = render_chart(files=("kind.yaml", "object-storage.yaml"), values=ON)
    save = containers(find(objects, "CronJob", "trainyard-backup"))[-1]
    assert environment(save)["ARTIFACTS"] == "s3://mlflow/artifacts"
    assert save["envFrom"] == [{"prefix": "ARTIFACTS_", "secretRef": {"name": "trainyard-mlflow-s3"}}]
    egress = find(objects, "NetworkPolicy", "trainyard-net-backup")["spec"]["egress"]
    assert 7070 in [port["port"] for rule in egress for port in rule["ports"]]


def test_artifacts_of_an_object_store_of_ones_own_are_not() -> None:
    own = {
        "versitygw": {"enabled": False},
        "mlflow": {
            "artifacts": {"destination": "s3://models/a", "persistence": {"enabled": False}},
        },
    }
    save = containers(find(render_chart(values=ON | own), "CronJob", "trainyard-backup"))[-1]
    assert environment(save)["ARTIFACTS"] == "" and "envFrom" not in save


# ---- the script


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with directories of its own."""
    module = load("files/backup/backup.py")
    for name in ("work", "place", "artifacts"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(module, "WORK", tmp_path / "work")
    monkeypatch.setattr(module, "CONNECTIONS", tmp_path / "pg_service.conf")
    variables = {
        "PLACE": str(tmp_path / "place"),
        "ARTIFACTS": str(tmp_path / "artifacts"),
        "DATABASES": "airflow mlflow",
        "KEEP": "2",
        "URL_AIRFLOW": "postgresql+psycopg2://airflow:p%40s%25s@db:5432/airflow?sslmode=require",
        "URL_MLFLOW": "postgresql://mlflow:q@db/mlflow",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for database in ("airflow", "mlflow"):
        (tmp_path / f"work/{database}.dump").write_text(f"dump of {database}")
        (tmp_path / f"work/{database}.revisions").write_text("alembic_version abc\n")
    (tmp_path / "artifacts/1/m").mkdir(parents=True)
    (tmp_path / "artifacts/1/m/model").write_text("weights")
    (tmp_path / "artifacts/1/m/same").write_text("weights")
    return module


@pytest.fixture
def save(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Makes a backup, each at a time of its own; returns its name."""
    names = (f"20270101-0300{second}" for second in range(10, 60))

    def _save() -> str:
        monkeypatch.setattr(script, "NAME", next(names))
        script.save()
        return script.names(script.place())[-1]

    return _save


def files(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): path.read_text()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_the_file_with_the_connections_is_for_nobody_else(script: ModuleType, tmp_path: Path) -> None:
    script.connect()
    file = tmp_path / "pg_service.conf"
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert "password=p@s%s\nsslmode=require\n[mlflow]\nhost=db\ndbname=mlflow" in text


def test_what_was_saved_comes_back(script: ModuleType, save: Callable[[], str], tmp_path: Path) -> None:
    before = files(tmp_path / "artifacts")
    save()
    assert len(files(tmp_path / "place/artifacts")) == 1  # the same content is there once
    shutil.rmtree(tmp_path / "artifacts/1")
    (tmp_path / "artifacts/newer").write_text("stays")
    (tmp_path / "work/airflow.dump").unlink()
    script.fetch()
    script.place_artifacts()
    assert (tmp_path / "work/airflow.dump").read_text() == "dump of airflow"
    assert (tmp_path / "work/mlflow.revisions").read_text() == "alembic_version abc\n"
    assert files(tmp_path / "artifacts") == before | {"newer": "stays"}


def test_the_newest_are_kept_with_what_they_need(
    script: ModuleType, save: Callable[[], str], tmp_path: Path
) -> None:
    first = save()
    (tmp_path / "artifacts/1/m/model").write_text("other weights")
    (tmp_path / "artifacts/1/m/same").write_text("other weights")
    for file in (tmp_path / "place/artifacts").rglob("*"):
        os.utime(file, (0, 0))
    kept = [save(), save()]
    assert script.names(script.place()) == kept
    assert not [file for file in files(tmp_path / "place") if first in file]
    assert list(files(tmp_path / "place/artifacts").values()) == ["other weights"]


def test_a_backup_that_fails_is_none_and_takes_none_away(
    script: ModuleType, save: Callable[[], str], tmp_path: Path
) -> None:
    kept = [save(), save()]
    (tmp_path / "work/mlflow.dump").unlink()
    with pytest.raises(FileNotFoundError):
        save()
    assert script.names(script.place()) == kept
    script.fetch()


def test_what_an_interrupted_writer_has_left_is_removed(
    script: ModuleType, save: Callable[[], str], tmp_path: Path
) -> None:
    def leave(where: str) -> None:
        for age, name in enumerate(("young", "old")):
            file = tmp_path / where / f"{script.PART}{name}"
            file.write_text("half")
            os.utime(file, (time.time() - 90_000 * age,) * 2)

    def left(where: str) -> list[str]:
        return [file for file in files(tmp_path / where) if file.startswith(script.PART)]

    leave("place")
    leave("artifacts")
    save()
    assert left("place") == [f"{script.PART}young"]
    script.fetch()
    script.place_artifacts()
    assert left("artifacts") == [f"{script.PART}young"]


def test_a_damaged_backup_is_refused_before_anything_is_written(
    script: ModuleType, save: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = save(), save()
    dump = tmp_path / f"place/backups/{bad}/mlflow.dump"
    dump.write_text("dump of somebody")
    with pytest.raises(script.BackupError, match=r"mlflow\.dump is not as it was written\n  cure: "):
        script.fetch()
    manifest = dump.with_name("manifest.json")
    manifest.write_text(manifest.read_text().replace("dump", "Dump").replace('"size": 7', '"size": 8'))
    with pytest.raises(
        script.BackupError, match=rf"manifest\.json.*\n  cure: restore another backup: {good}"
    ):
        script.fetch()
    monkeypatch.setenv("BACKUP", good)
    script.fetch()
    blob = next((tmp_path / "place/artifacts").rglob("?" * 64))
    blob.unlink()
    with pytest.raises(
        script.BackupError, match=rf"is missing\n  cure: every .* remove artifacts/../{blob.name} "
    ):
        script.fetch()
    monkeypatch.setenv("BACKUP", save())  # as the cure says
    script.fetch()


def test_what_is_not_there_is_refused(
    script: ModuleType, save: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(script.BackupError, match=r"there is no backup in .*\n  cure: \./scripts/backup"):
        script.fetch()
    name = save()
    monkeypatch.setenv("BACKUP", "yesterday")
    with pytest.raises(script.BackupError, match=f"no backup yesterday\n  cure: name one of these: {name}"):
        script.fetch()
    monkeypatch.setenv("BACKUP", name)
    monkeypatch.setenv("DATABASES", "airflow mlflow third")
    with pytest.raises(script.BackupError, match="has no database third"):
        script.fetch()


def test_the_list_tells_of_damaged_ones(
    script: ModuleType, save: Callable[[], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = save(), save()
    (tmp_path / f"place/backups/{bad}/manifest.json").write_text("{")
    capsys.readouterr()
    script.list_all()
    first, second = json.loads(capsys.readouterr().out)["backups"]
    assert first == {
        "name": good,
        "databases": {"airflow": 15, "mlflow": 14},
        "artifacts": {"files": 2, "size": 14},
    }
    assert second["name"] == bad and "damaged" in second["error"]


def test_a_place_without_room_for_a_name_of_its_own_is_clean(script: ModuleType, tmp_path: Path) -> None:
    script.check()
    assert files(tmp_path / "place") == {}


def test_a_bucket_that_does_not_answer_is_named(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "s3://bucket/prefix")
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:9", "ACCESS_KEY_ID": "a"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(
        script.BackupError, match=r"s3://bucket/prefix cannot be reached: .*\n  cure: correct"
    ):
        script.check()


# ---- versions


@pytest.mark.parametrize("database", ["airflow", "mlflow"])
def test_the_tables_of_a_newer_version_are_refused(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load("files/backup/check_schema.py")
    monkeypatch.setattr(module, "WORK", tmp_path)
    known = module.known_revisions(module.MIGRATIONS[database]["alembic_version"])
    assert len(known) > 20
    file = tmp_path / f"{database}.revisions"
    file.write_text(f"alembic_version {min(known)}\nalembic_version_of_another x\n")
    assert module.main(database) == 0
    file.write_text("alembic_version 0123456789ab\n")
    assert module.main(database) == 1
    said = capsys.readouterr().out
    assert "newer version than the release (alembic_version is 0123456789ab)\n  cure: upgrade" in said


# ---- PostgreSQL


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Where another user gets to; each pytest closes the directory above its temporary ones to all others."""
    with tempfile.TemporaryDirectory(prefix="trainyard-postgres-") as made:
        yield Path(made)


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[Callable[..., str]]:
    """Runs psql on a server of its own, with two databases."""
    if not (POSTGRES / "initdb").is_file():
        pytest.skip("there is no PostgreSQL on this machine; tests/e2e/test_backup.py has one")
    as_user = []
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        os.chown(directory, 65534, 65534)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def command(program: str, *words: str) -> None:
        subprocess.run([*as_user, POSTGRES / program, f"--pgdata={directory}/data", *words], check=True)

    command("initdb", "--auth=trust", "--username=postgres")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    command("pg_ctl", "--wait", "--log=" + str(directory / "log"), "--options=" + options, "start")

    def psql(database: str, *statements: str, user: str = "") -> str:
        user = user or database
        words = [f"--command={each}" for each in statements]
        url = f"host=127.0.0.1 port={port} user={user} dbname={database}"
        return subprocess.run(
            [POSTGRES / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *words, url],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    for name in ("airflow", "mlflow"):
        psql("postgres", f"CREATE ROLE {name} LOGIN", f"CREATE DATABASE {name} OWNER {name}")
    psql.port = port  # type: ignore[attr-defined]
    yield psql
    command("pg_ctl", "--mode=immediate", "stop")


def run_script(
    name: str, tmp_path: Path, port: int, programs: Path = POSTGRES
) -> subprocess.CompletedProcess[str]:
    """Run a script of the postgres image, with the paths of the pod in ``tmp_path``."""
    for file in FILES.iterdir():
        text = file.read_text().replace("/work/", f"{tmp_path}/").replace("/scripts/", f"{tmp_path}/")
        (tmp_path / file.name).write_text(text.replace("tries=5", "tries=1"))
    service = tmp_path / "pg_service.conf"
    service.write_text(
        "".join(
            f"[{each}]\nhost=127.0.0.1\nport={port}\ndbname={each}\nuser={each}\n"
            for each in ("airflow", "mlflow")
        )
    )
    path = f"{programs}:{os.environ['PATH']}"
    variables = {**os.environ, "PGSERVICEFILE": str(service), "DATABASES": "airflow mlflow", "PATH": path}
    return subprocess.run(["bash", tmp_path / name], env=variables, capture_output=True, text=True)


def test_what_only_a_newer_server_knows_is_not_set(tmp_path: Path) -> None:
    """pg_restore of PostgreSQL 17 sets `transaction_timeout` first; a server before does not know it."""
    dump = "SET transaction_timeout = 0;\nSET lock_timeout = 0;\nCREATE TABLE a ();\n"
    for_each_file = "for word; do case $word in --file=*) {};; esac; done"
    programs = {
        "pg_restore": for_each_file.format(f'printf "{dump}" >"${{word#--file=}}"'),
        "psql": for_each_file.format(f'cat "${{word#--file=}}" >>{tmp_path}/run'),
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    done = run_script("restore.sh", tmp_path, 1, programs=tmp_path)
    assert done.returncode == 0, done.stderr
    statements = (tmp_path / "run").read_text()
    assert statements.count("SET lock_timeout = 0;\nCREATE TABLE a ();") == 2
    assert "transaction_timeout" not in statements


def test_a_database_comes_back_as_a_whole(server, tmp_path: Path) -> None:
    # As on managed servers: it is not the user's to drop.
    server("airflow", "CREATE EXTENSION pg_trgm", "COMMENT ON EXTENSION pg_trgm IS 'text'", user="postgres")
    server(
        "airflow",
        "CREATE TYPE state AS ENUM ('a', 'b')",
        "CREATE TABLE dag (id serial PRIMARY KEY, state state)",
        "CREATE TABLE alembic_version (version_num text)",
        "INSERT INTO alembic_version VALUES ('abc')",
        "INSERT INTO dag (state) VALUES ('a'), ('b')",
    )
    server("mlflow", "CREATE TABLE runs (id int)", "INSERT INTO runs VALUES (1)")
    dumped = run_script("dump.sh", tmp_path, server.port)
    assert dumped.returncode == 0, dumped.stderr
    assert (tmp_path / "airflow.revisions").read_text() == "alembic_version abc\n"
    # A newer version has more tables, and one that refers to an old one.
    server("airflow", "CREATE TABLE newer (id int REFERENCES dag)", "INSERT INTO dag (state) VALUES ('b')")
    server("mlflow", "DROP TABLE runs")
    done = run_script("restore.sh", tmp_path, server.port)
    assert done.returncode == 0, done.stderr
    assert server("airflow", "SELECT count(*) FROM dag", "SELECT to_regclass('newer') IS NULL").split() == [
        "2",
        "t",
    ]
    assert server("mlflow", "SELECT id FROM runs").split() == ["1"]
    assert (
        server("airflow", "SELECT extowner::regrole FROM pg_extension WHERE extname = 'pg_trgm'")
        == "postgres\n"
    )

    # What cannot be restored leaves the database as it was.
    server("airflow", "INSERT INTO dag (state) VALUES ('a')")
    broken = (
        (tmp_path / "restore.sh")
        .read_text()
        .replace(
            "restore() { # DATABASE", 'restore() {\n    echo "SELECT 1/0;" >>"' + str(tmp_path) + '/$1.sql"'
        )
    )
    (tmp_path / "restore-broken.sh").write_text(broken)
    variables = {**os.environ, "PGSERVICEFILE": str(tmp_path / "pg_service.conf"), "DATABASES": "airflow"}
    variables["PATH"] = f"{POSTGRES}:{os.environ['PATH']}"
    failed = subprocess.run(
        ["bash", tmp_path / "restore-broken.sh"], env=variables, capture_output=True, text=True
    )
    assert failed.returncode == 1
    assert "error: the database airflow was not restored, and is as it was\n  cure: " in failed.stderr
    assert server("airflow", "SELECT count(*) FROM dag").split() == ["3"]
