"""Which run keys are still needed, according to MLflow."""

from collections.abc import Callable, Iterable
from typing import Any

from trainyard_contract import Tag

from trainyard_trainer.settings import Settings
from trainyard_trainer.tracking import connect, with_retries

_PAGE = 1000


class RunKeyUsage:
    """Looks up run keys in MLflow. Every method raises Temporary when MLflow stays unavailable."""

    def __init__(self, settings: Settings) -> None:
        """Make a client; send nothing yet."""
        self._client = connect(settings.tracking_uri)
        self._patience = settings.tracking_patience

    def registered(self) -> set[str]:
        """Return the run keys of all runs that a version of any registered model comes from.

        A version is tagged with the key of its DAG run, and names the MLflow run that trained it, which may
        be a trial's run with its own key.
        """
        return with_retries(self._registered, self._patience)

    def is_running(self, run_key: str) -> bool:
        """Return whether an MLflow run of the run key has the status RUNNING."""
        return with_retries(lambda: self._is_running(run_key), self._patience)

    def _registered(self) -> set[str]:
        keys, run_ids = set(), set()
        for version in _pages(self._client.search_model_versions):
            keys.add(version.tags.get(Tag.RUN_KEY, ""))
            run_ids.add(version.run_id)
        for run_id in filter(None, run_ids):
            keys.add(self._key_of(run_id))
        return keys - {""}

    def _key_of(self, run_id: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.get_run(run_id).data.tags.get(Tag.RUN_KEY, ""))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # only the version's own tag is left
                return ""
            raise

    def _is_running(self, run_key: str) -> bool:
        experiments = [one.experiment_id for one in _pages(self._client.search_experiments)]
        query = f"tags.`{Tag.RUN_KEY}` = '{run_key}' and attributes.status = 'RUNNING'"
        return bool(self._client.search_runs(experiments, query, max_results=1)) if experiments else False


def _pages(search: Callable[..., Any]) -> Iterable[Any]:
    """Return the items of all pages of an MLflow search."""
    token = None
    while True:
        page = search(max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
