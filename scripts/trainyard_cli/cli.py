"""The commands' arguments, and how their errors are shown.

Each command imports what it works with when it runs: to import all of it takes longer than to read arguments.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from . import paths
from .errors import CliError
from .names import NAMESPACE, RELEASE
from .stages import Stages

if TYPE_CHECKING:
    from .kube import Kube

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Verbose = Annotated[bool, typer.Option("--verbose", help="Show where an error comes from.")]
Values = Annotated[
    list[Path] | None,
    typer.Option("--values", metavar="FILE", help="A values file on top of values/kind.yaml; repeatable."),
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option("--kubeconfig", metavar="FILE", help="The cluster's.", show_default="that of ./scripts/up"),
]
Context = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="A context of the kubeconfig.")
]
Namespace = Annotated[str, typer.Option("--namespace", help="The release's namespace.")]
ReleaseName = Annotated[str, typer.Option("--release", metavar="NAME", help="The release.")]

# Told apart from 1, which is an error.
DIFFERENT = 3


class Format(StrEnum):
    """How `./scripts/diff` writes."""

    text = "text"
    markdown = "markdown"


class ToolProgress:
    """Tells what is fetched or built before a quick command can run; silent where all is there."""

    def update(self, text: str) -> None:
        """Show ``text``."""
        err.print(f"{text} ...", markup=False)


@app.command()
def up(
    airflow_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Where Airflow answers on this machine.", show_default="8080"),
    ] = None,
    mlflow_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Where MLflow answers on this machine.", show_default="5000"),
    ] = None,
    train: Annotated[bool, typer.Option("--train/--no-train", help="Train the first model.")] = True,
    remake: Annotated[
        bool,
        typer.Option(
            "--remake", help="Replace a cluster that cannot stay as it is; its runs and models are lost."
        ),
    ] = False,
    values: Values = None,
    gitops: Annotated[
        bool, typer.Option("--gitops", help="Release by Argo CD, from a git server in the cluster.")
    ] = False,
    take_ownership: Annotated[
        bool, typer.Option("--take-ownership", help="Release by Helm what Argo CD syncs until now.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Bring the platform up on a local kind cluster, train a model and show it.

    What is there already is kept, so running it again is quick and goes on where it stopped.
    """
    from . import cluster, platform, training

    if gitops and take_ownership:
        raise CliError("--gitops and --take-ownership exclude each other", "give one of them")
    ports = cluster.chosen_ports(airflow_port, mlflow_port)
    way = platform.Way(gitops=gitops, take_ownership=take_ownership)
    with Stages(out) as stages:
        with platform.only_one():
            made = platform.bring_up(stages, ports, values or [], remake=remake, way=way)
        if train:
            with stages("training"):
                run_id = training.start_or_resume(made, training.TRAINING_DAG, "up")
                training.follow_to_success(made, training.TRAINING_DAG, run_id, out)
                version = training.trained_version(made, run_id)
    if train:
        training.summary(made, version, out)
    training.access(made, out)


@app.command()
def run(
    dag: Annotated[str, typer.Argument(metavar="DAG", help="The DAG's id, e.g. digits_training.")],
    conf: Annotated[str, typer.Option(metavar="JSON", help="The run's parameters, as a JSON object.")] = "{}",
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Show the run until it ends.")] = True,
    run_id: Annotated[
        str, typer.Option(help="The run's id; one that exists is followed, not started again.")
    ] = "",
    logical_date: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="What {{ ds }} says; in UTC, if it names no zone.", show_default="now"
        ),
    ] = "",
    local: Annotated[
        bool, typer.Option("--local", help="Run it on this machine, without a cluster; trainings in Docker.")
    ] = False,
    dags: Annotated[
        Path | None,
        typer.Option(
            help="With --local: the directory of DAG files.",
            exists=True,
            file_okay=False,
            resolve_path=True,
            show_default="dags",
        ),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Trigger a DAG and follow its run.

    Ctrl-C ends the following, not the run; with --local it ends the run.
    """
    from . import platform, training

    parameters, date = training.parse_conf(conf), training.parse_date(logical_date)
    if dags and not local:
        raise CliError("--dags is for --local alone", "a cluster has its own: see docs/dags.md")
    if local:
        if run_id or logical_date or not follow:
            raise CliError("--local takes no --run-id, --logical-date and --no-follow", "leave them out")
        from . import local as here

        with Stages(out) as stages:
            here.run_dag(stages, dag, parameters, dags or paths.ROOT / "dags", out)
        return
    reached = platform.connect()
    run_id = run_id or training.new_run_id("run")
    training.start(reached, dag, parameters, run_id, date)
    if follow:
        training.follow_to_success(reached, dag, run_id, out)
        out.print(f"{dag} {run_id}: success", markup=False)
    else:
        out.print(
            f"started {dag} {run_id}: {reached.airflow.run_url(dag, run_id)}", markup=False, soft_wrap=True
        )


@app.command()
def down(
    purge: Annotated[bool, typer.Option("--purge", help="Remove the images and the cache too.")] = False,
    verbose: Verbose = False,
) -> None:
    """Remove the cluster, its data and a Docker daemon that ./scripts/up started; nothing else."""
    from . import platform

    with platform.only_one(), Stages(out) as stages:
        platform.take_down(stages, purge=purge)


@app.command()
def figures(verbose: Verbose = False) -> None:
    """Show what the running platform costs: memory of every pod, sizes of the images."""
    from . import figures as measured
    from . import platform

    measured.show(platform.connect().kube, out)


@app.command(context_settings={"allow_extra_args": True})
def test(
    context: typer.Context,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Only what needs no cluster, without the exhaustive tests."),
    ] = False,
    e2e: Annotated[bool, typer.Option("--e2e", help="Only what needs the cluster.")] = False,
    nightly: Annotated[
        bool, typer.Option("--nightly", help="The slow tests as well: before a release, not on every change.")
    ] = False,
    cuda: Annotated[
        bool, typer.Option("--cuda", help="Only the trainer's, with PyTorch's CUDA build; no GPU is needed.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Do all set-up and run every test; what follows -- goes to pytest.

    The end-to-end tests run on the cluster of ./scripts/up, which is replaced where it cannot stay as it is.
    """
    from . import tests_command

    if fast + e2e + cuda > 1:
        raise CliError("--fast, --e2e and --cuda exclude each other", "give none to run every test")
    parts = {"fast": not (e2e or cuda), "e2e": not (fast or cuda), "cuda": cuda}
    with Stages(out) as stages:
        tests_command.run_tests(stages, context.args, **parts, nightly=nightly)


@app.command(context_settings={"allow_extra_args": True})
def lint(context: typer.Context, verbose: Verbose = False) -> None:
    """Run the linters on all files; what follows -- goes to `pre-commit run` in place of --all-files."""
    from . import tests_command

    with Stages(out) as stages:
        tests_command.lint(stages, context.args or tests_command.ALL_FILES)


@app.command()
def promote(
    source: Annotated[str, typer.Argument(metavar="FROM", help="The environment whose images are taken.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The environment that gets them.")],
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="REV", help="The chart's commit, tag or branch.", show_default="the one that FROM runs"
        ),
    ] = None,
    branch: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The branch to make.", show_default="promote/TO-HASH"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change; make nothing.")] = False,
    verbose: Verbose = False,
) -> None:
    """Promote images and chart revision from one environment to another, as one commit on a new branch.

    Reads what HEAD has of values/environments and shows what changes in the cluster. Your working tree and
    your index stay as they are.
    """
    from . import diff as compared
    from . import promote as promotion
    from . import toolchain
    from .git import Repository, short

    repository = Repository(paths.ROOT)
    helm = toolchain.helm(ToolProgress())
    prepared = promotion.prepare(helm, repository, source, target, revision)
    if prepared is None:
        out.print(f"nothing to promote: {target} has the images and the revision of {source}", markup=False)
        return
    _print_diff(compared.as_text([prepared.changes]))
    out.print(f"\n{prepared.message}\n", markup=False, soft_wrap=True)
    for warning in prepared.warnings:
        err.print(f"warning: {warning}", markup=False, soft_wrap=True)
    if dry_run:
        out.print("nothing was written (--dry-run)")
        return
    name, commit = promotion.commit(repository, prepared, branch)
    remote = (repository.remotes() or ["REMOTE"])[0]
    out.print(f"branch {name} has this as commit {short(commit)}. Next:", markup=False, soft_wrap=True)
    out.print(f"  git push {remote} {name}     and open a pull request", markup=False, soft_wrap=True)


@app.command()
def diff(
    old: Annotated[str, typer.Argument(metavar="REV1", help="The commit, tag or branch to compare with.")],
    new: Annotated[
        str | None,
        typer.Argument(metavar="REV2", help="The newer one.", show_default="the working tree"),
    ] = None,
    environment: Annotated[
        list[str] | None,
        typer.Option("--environment", metavar="NAME", help="Only this environment; repeatable."),
    ] = None,
    format: Annotated[
        Format, typer.Option("--format", help="markdown is a comment for a pull request.")
    ] = Format.text,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 3 if anything differs.")] = False,
    verbose: Verbose = False,
) -> None:
    """Show what changes in the cluster from one revision of the repository to another.

    Renders every environment of values/environments with its files of each revision, and with the chart that
    Argo CD would take: at the environment's revision where that is a commit or a tag, else at the compared
    revision. The exit code is 1 where REV2 does not render.
    """
    from . import diff as compared
    from . import toolchain
    from .git import Repository

    repository = Repository(paths.ROOT)
    helm = toolchain.helm(ToolProgress())
    results = compared.compare_revisions(helm, repository, old, new, environment or [])
    if format is Format.markdown:
        print(compared.as_markdown(results), end="")
    else:
        _print_diff(compared.as_text(results))
    if any(each.broken for each in results):
        raise typer.Exit(1)
    if exit_code and any(each.changes or each.error for each in results):
        raise typer.Exit(DIFFERENT)


@app.command()
def status(
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Annotated[str, typer.Option("--namespace", help="Where Argo CD runs.")] = "argocd",
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")] = False,
    verbose: Verbose = False,
) -> None:
    """Show for each environment what is deployed, what differs from git, and why it is not healthy.

    Reads the Applications of Argo CD in one cluster; without Argo CD, Helm's release. Changes nothing.
    """
    from . import status as states
    from .git import Repository

    known, problems = states.of_checkout(Repository(paths.ROOT))
    with _cluster(kubeconfig, context) as kube:
        found = states.collect(kube, known, namespace)
    found.problems.extend(problems)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        states.show(found, out)


@app.command()
def backup(
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = NAMESPACE,
    release: ReleaseName = RELEASE,
    verbose: Verbose = False,
) -> None:
    """Make a backup of the databases and of MLflow's artifacts now, and wait until it is complete.

    The release makes them by its schedule as well: backup.* of its values.
    """
    from . import backups
    from .installed import Installed

    with _cluster(kubeconfig, context) as kube, Stages(out) as stages:
        made = backups.back_up(stages, Installed(kube, namespace, release))
    out.print(f"backup {made.name}: {made.line}", markup=False, soft_wrap=True)


@app.command()
def restore(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="The backup.", show_default="the newest one")
    ] = "",
    list_only: Annotated[bool, typer.Option("--list", help="Show the backups; restore none.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before it overwrites.")] = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = NAMESPACE,
    release: ReleaseName = RELEASE,
    verbose: Verbose = False,
) -> None:
    """Put a backup in place of what the release has: the databases, and MLflow's artifacts.

    What is newer than the backup is lost. A restore that was broken off can be run again.
    """
    from . import backups
    from .installed import Installed

    with _cluster(kubeconfig, context) as kube, Stages(out) as stages:
        installed = Installed(kube, namespace, release)
        found = backups.list_backups(stages, installed)
        if list_only:
            for each in found:
                out.print(f"{each.name}  {each.line}", markup=False, soft_wrap=True)
            return
        chosen = backups.chosen(found, name)
        if not yes:
            _confirm(f"backup {chosen.name} ({chosen.line})", f"release {release} in namespace {namespace}")
        backups.restore(stages, installed, chosen)
    out.print(f"restored: backup {chosen.name}, {chosen.line}", markup=False, soft_wrap=True)


def _confirm(what: str, where: str) -> None:
    """Ask before something is overwritten; CliError for any other answer than yes."""
    out.print(
        f"{what} is to replace what {where} has: users, runs and models since then are lost.", soft_wrap=True
    )
    out.print("What trains now is no longer followed. Restore it? [y/N]", markup=False, end=" ")
    answer = sys.stdin.readline().strip().lower() if sys.stdin.isatty() else ""
    if answer not in ("y", "yes"):
        raise CliError("nothing was restored", "answer y, or give --yes")


@app.command()
def rotate(
    credential: Annotated[
        str,
        typer.Argument(
            metavar="CREDENTIAL", help="database, fernet-key, jwt, mlflow, object-store or sessions."
        ),
    ],
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = NAMESPACE,
    release: ReleaseName = RELEASE,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for tasks that hold the old one: they may fail.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Replace a credential of a running release, and restart what reads it; training goes on.

    Without it, nothing is ever rotated. A rotation that was broken off is finished by the next one.
    """
    from . import kubectl_proxy, rotation, toolchain

    if credential not in rotation.CREDENTIALS:
        raise CliError(
            f"there is no credential {credential}", f"it is one of {', '.join(rotation.CREDENTIALS)}"
        )
    file = kubeconfig or (None if context else paths.KUBECONFIG)
    command: tuple[str | Path, ...] = (
        toolchain.kubectl(ToolProgress()),
        *kubectl_proxy.options(file, context),
    )
    with _cluster(kubeconfig, context) as kube, Stages(out) as stages:
        found = rotation.Release(kube, namespace, release, command)
        rotation.rotate(stages, found, credential, now=now)
    out.print(f"{credential}: rotated")
    if credential == "fernet-key":
        out.print("backups of before need the old key: ./scripts/backup makes one with the new key")


@contextmanager
def _cluster(kubeconfig: Path | None, context: str | None) -> Iterator[Kube]:
    """Give the cluster of ./scripts/up, or any other by way of kubectl."""
    from . import kubectl_proxy, toolchain
    from .kube import Kube

    if kubeconfig or context:
        with kubectl_proxy.reach(toolchain.kubectl(ToolProgress()), kubeconfig, context) as kube:
            yield kube
    else:
        if not paths.KUBECONFIG.is_file():
            cure = "./scripts/up makes one; --kubeconfig and --context name another one"
            raise CliError("there is no cluster", cure)
        yield Kube(paths.KUBECONFIG)


def _print_diff(lines: Iterable[str]) -> None:
    styles = {"===": "bold", "---": "bold", "@@ ": "cyan"}
    for line in lines:
        style = styles.get(line[:3]) or {"+": "green", "-": "red"}.get(line[:1], "")
        out.print(Text(line, style), soft_wrap=True)


@app.command()
def publish(
    registry: Annotated[
        str, typer.Option(metavar="R", help="Registry and path, e.g. ghcr.io/you/trainyard.")
    ] = "",
    push: Annotated[
        bool, typer.Option("--push/--no-push", help="Push what is built, or only build it.")
    ] = True,
    environment: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Write the digests into values/environments/NAME/environment.yaml."
        ),
    ] = "",
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image", metavar="NAME", help="Only this image; repeatable. By default what a GPU cluster runs."
        ),
    ] = None,
    sbom: Annotated[
        Path | None, typer.Option(metavar="DIRECTORY", help="Write the SBOM of each image there, too.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Build the images and the chart, push them, sign them where there is a signer, and print the digests.

    An image is pushed once: its tag is a hash of what it is made of. It logs in first where REGISTRY_USER and
    REGISTRY_PASSWORD are set.
    """
    from . import publish as publishing

    names = image or publishing.default_images()
    publishing.check(registry, names, push=push, environment=environment)
    with Stages(err) as stages:
        publishing.publish(stages, registry, names, push=push, environment=environment, sboms=sbom, out=out)


@app.command()
def sbom(
    image: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE]...", help="By default those of the release on kind."),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="DIRECTORY", help="Where IMAGE.cdx.json is written.")
    ] = paths.SBOMS,
    verbose: Verbose = False,
) -> None:
    """List what each image is made of, as CycloneDX JSON: Python and Debian packages, Go modules."""
    from . import sbom as bills

    with Stages(err) as stages:
        for file in bills.write_all(stages, image or (), output):
            out.print(file, markup=False, soft_wrap=True)


@app.command()
def audit(
    vulnerabilities: Annotated[
        bool, typer.Option("--vulnerabilities/--no-vulnerabilities", help="Ask for known vulnerabilities.")
    ] = True,
    licences: Annotated[
        bool, typer.Option("--licences/--no-licences", help="Show the licences of what is in the images.")
    ] = True,
    sboms: Annotated[
        Path | None,
        typer.Option("--sbom", metavar="DIRECTORY", help="Take these SBOMs; by default they are made."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Tell vulnerabilities of every lock file's packages, and licences of what is in the images.

    It fails where a package is vulnerable, or has a licence that images/licences.yaml wants looked at.
    """
    from . import audit as audited
    from . import sbom as bills

    found = pending = 0
    with Stages(err) as stages:
        if licences:
            files = sorted(sboms.glob(f"*{bills.SUFFIX}")) if sboms else bills.write_all(stages)
            pending = audited.licences(files, out)
        if vulnerabilities:
            found = audited.vulnerabilities(stages, audited.locks(), out)
    if found or pending:
        raise CliError(
            f"{found} known vulnerabilities, {pending} licences to look at",
            "upgrade (./scripts/lock --upgrade), or say in images/licences.yaml why a licence is all right",
        )


def main() -> NoReturn:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 different, 130 interrupted."""
    name, *arguments = sys.argv[1:] or ["--help"]
    group = typer.main.get_group(app)
    command = group.commands.get(name)
    verbose = "--verbose" in arguments
    try:
        if command is None:
            group.main([name], prog_name="python -m trainyard_cli")
        else:
            command.main(arguments, prog_name=f"./scripts/{name}")
    except CliError as error:
        if verbose:
            traceback.print_exc()
        err.print("error:", style="bold red", end=" ")
        err.print(error, markup=False, soft_wrap=True)
        sys.exit(1)
    sys.exit(0)
