"""Features, joined to the rows that they belong to."""

import numpy as np
import numpy.typing as npt

from trainyard_trainer import lake
from trainyard_trainer.errors import BadData


class FeatureTable:
    """The features dataset of a URI; the URI "" means no features."""

    def __init__(self, uri: str) -> None:
        """Read the dataset. Raises BadData when it is absent, damaged or not a features dataset."""
        self.uri = uri
        self.sha256 = self.version = ""
        if not uri:
            return
        columns, dataset = lake.read(uri)
        if missing := {"ids", "features"} - columns.keys():
            raise BadData(f"dataset {uri} lacks {', '.join(sorted(missing))}; features_uri needs features")
        self.sha256, self.version = dataset.sha256, dataset.version
        self._order = np.argsort(columns["ids"], kind="stable")
        self._ids = columns["ids"][self._order]
        self._features = columns["features"]

    def join(self, inputs: npt.NDArray[np.float32], ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the inputs with the features of each row appended. Raises BadData where a row has none."""
        if not self.uri:
            return inputs
        found = np.searchsorted(self._ids, ids)
        found[found == len(self._ids)] = 0
        absent = np.flatnonzero(self._ids[found] != ids)
        if len(absent):
            raise BadData(
                f"rule join: dataset {self.uri} has no features for {len(absent)} of {len(ids)} rows, "
                f"the first has id {ids[absent[0]]}; make both from the same raw dataset"
            )
        return np.hstack([inputs, self._features[self._order[found]]])

    def join_splits(self, columns: lake.Columns) -> lake.Columns:
        """Return the columns of a processed dataset with features appended to the inputs of each split."""
        joined = dict(columns)
        for name in columns:
            if name.endswith("_inputs"):
                joined[name] = self.join(columns[name], columns[name.removesuffix("inputs") + "ids"])
        return joined
