"""The commands' arguments, and how their errors are shown."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from . import cluster, platform, tests_command, training
from . import figures as measured
from .errors import CliError
from .stages import Stages

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Verbose = Annotated[bool, typer.Option("--verbose", help="Show where an error comes from.")]
Values = Annotated[
    list[Path] | None,
    typer.Option("--values", metavar="FILE", help="A values file on top of values/kind.yaml; repeatable."),
]


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
    verbose: Verbose = False,
) -> None:
    """Trigger a DAG and follow its run.

    Ctrl-C ends the following, not the run.
    """
    parameters = training.parse_conf(conf)
    reached = platform.connect()
    run_id = run_id or training.new_run_id("run")
    training.start(reached, dag, parameters, run_id)
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
    with platform.only_one(), Stages(out) as stages:
        platform.take_down(stages, purge=purge)


@app.command()
def figures(verbose: Verbose = False) -> None:
    """Show what the running platform costs: memory of every pod, sizes of the images."""
    measured.show(platform.connect().kube, out)


@app.command(context_settings={"allow_extra_args": True})
def test(
    context: typer.Context,
    fast: Annotated[bool, typer.Option("--fast", help="Only what needs no cluster.")] = False,
    e2e: Annotated[bool, typer.Option("--e2e", help="Only what needs the cluster.")] = False,
    nightly: Annotated[
        bool, typer.Option("--nightly", help="The slow tests as well: before a release, not on every change.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Do all set-up and run every test; what follows -- goes to pytest.

    The end-to-end tests run on the cluster of ./scripts/up, which is replaced where it cannot stay as it is.
    """
    if fast and e2e:
        raise CliError("--fast and --e2e exclude each other", "give neither to run every test")
    with Stages(out) as stages:
        tests_command.run_tests(stages, context.args, fast=not e2e, e2e=not fast, nightly=nightly)


@app.command(context_settings={"allow_extra_args": True})
def lint(context: typer.Context, verbose: Verbose = False) -> None:
    """Run the linters on all files; what follows -- goes to `pre-commit run` in place of --all-files."""
    with Stages(out) as stages:
        tests_command.lint(stages, context.args or tests_command.ALL_FILES)


def main() -> NoReturn:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 interrupted."""
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
