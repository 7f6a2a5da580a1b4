"""Who still needs a run key, as MLflow knows."""

from collections.abc import Callable, Iterable
from typing import Any

from trainyard_trainer.settings import Settings
from trainyard_trainer.tracking import RUN_KEY_TAG, connect, patiently

_PAGE = 1000


class RunKeys:
    """Asks MLflow about run keys. Every method raises Temporary when it does not answer for long."""

    def __init__(self, settings: Settings) -> None:
        """Connect, without asking anything yet."""
        self._client = connect(settings.tracking_uri)
        self._patience = settings.tracking_patience

    def registered(self) -> set[str]:
        """Return the keys of all runs from which a version of any registered model comes.

        A version has the key of its DAG run, and names the MLflow run that trained it, which may be a trial's
        with a key of its own.
        """
        return patiently(self._registered, self._patience)

    def is_running(self, run_key: str) -> bool:
        """Return whether a step of the run key is at work."""
        return patiently(lambda: self._is_running(run_key), self._patience)

    def _registered(self) -> set[str]:
        keys, run_ids = set(), set()
        for version in _pages(self._client.search_model_versions):
            keys.add(version.tags.get(RUN_KEY_TAG, ""))
            run_ids.add(version.run_id)
        for run_id in filter(None, run_ids):
            keys.add(self._key_of(run_id))
        return keys - {""}

    def _key_of(self, run_id: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.get_run(run_id).data.tags.get(RUN_KEY_TAG, ""))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # the version's own tag has to do
                return ""
            raise

    def _is_running(self, run_key: str) -> bool:
        experiments = [one.experiment_id for one in _pages(self._client.search_experiments)]
        mine = f"tags.`{RUN_KEY_TAG}` = '{run_key}' and attributes.status = 'RUNNING'"
        return bool(self._client.search_runs(experiments, mine, max_results=1)) if experiments else False


def _pages(search: Callable[..., Any]) -> Iterable[Any]:
    """Everything that a search of MLflow's finds."""
    token = None
    while True:
        page = search(max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
