"""Makes a DAG of every model file: `models/NAME.yaml` in the DAG folder is the DAG NAME_training.

Airflow reads DAG files with importers, one per file type. `trainyard.policy` makes this one known to every
process. Each file is parsed for itself, so a bad one breaks its own DAG alone.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from airflow.dag_processing.importers import (
    AbstractDagImporter,
    DagImportError,
    DagImportResult,
)

from trainyard.airflow_compat import files_not_ignored, register_importer
from trainyard.factory.yaml_document import DocumentError, Problem

FOLDER = "models"
EXTENSIONS = [".yaml", ".yml"]


def install() -> None:
    """Let this process read model files."""
    register_importer(ModelImporter())


class ModelImporter(AbstractDagImporter):
    """Reads `models/NAME.yaml`."""

    @classmethod
    def supported_extensions(cls) -> list[str]:
        """The endings of model files."""
        return EXTENSIONS

    def list_dag_files(self, directory: str | PathLike[str], safe_mode: bool = True) -> Iterator[str]:
        """The YAML files in folders called `models`, whatever is in them; other YAML is no DAG's."""
        for file in files_not_ignored(directory):
            if self.can_handle(file) and file.parent.name == FOLDER:
                yield str(file)

    def import_file(
        self,
        file_path: str | Path,
        *,
        bundle_path: Path | None = None,
        bundle_name: str | None = None,
        safe_mode: bool = True,
    ) -> DagImportResult:
        """Make the file's DAG, or say what is wrong with the file."""
        from trainyard.factory.pipeline import training_pipeline
        from trainyard.factory.spec import parse_spec
        from trainyard.platform import PlatformError, load_platform

        path = Path(file_path)
        shown = self.get_relative_path(path, bundle_path)
        result = DagImportResult(file_path=shown)
        try:
            if rival := _rival(path, bundle_path or path.parents[1]):
                message = f"the DAG {path.stem}_training comes from {rival} as well; rename one of the files"
                raise DocumentError([Problem(1, 1, message)])
            platform = load_platform()
            dag = training_pipeline(parse_spec(_read(path), path.stem, platform), platform)
            dag.fileloc = str(path)
            dag.relative_fileloc = shown
            result.dags.append(dag)
        except DocumentError as error:
            result.errors.append(_import_error(shown, error))
        except (OSError, PlatformError) as error:
            result.errors.append(DagImportError(shown, f"{shown}: {error}", error_type="import"))
        except Exception as error:
            result.errors.append(DagImportError(shown, str(error), stacktrace=traceback.format_exc()))
        return result


def _read(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DocumentError([Problem(line, 1, "not UTF-8; save the file in that encoding")]) from None


def _rival(path: Path, root: Path) -> Path | None:
    """Another file that makes the same DAG: parsed one by one, they would replace each other's for ever."""
    same = (file for ending in EXTENSIONS for file in root.rglob(f"{FOLDER}/{path.stem}{ending}"))
    python = root / f"{path.stem}_training.py"
    for file in (*same, python):
        if file != path and file.is_file():
            return file.relative_to(root)
    return None


def _import_error(shown: str, error: DocumentError) -> DagImportError:
    lines = [f"{shown}, line {p.line}, column {p.column}: {p.message}" for p in error.problems]
    first = error.problems[0]
    return DagImportError(
        shown, "\n".join(lines), error_type="schema", line_number=first.line, column_number=first.column
    )
