"""Text: the characters of a file, and a transformer that predicts the next one at each place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainyard_trainer import splits, storage
from trainyard_trainer.errors import BadConfig, BadData, storage_error
from trainyard_trainer.lake import Columns
from trainyard_trainer.models.base import BaseModel, Rows
from trainyard_trainer.params import Param

if TYPE_CHECKING:
    import torch

# Characters in a row. The signature of the model says so, too: a server takes rows of this length.
_CONTEXT = 64
_SYMBOLS = 128  # ASCII; any other character is a question mark
_MIN_ROWS = 500
_PYDOC = "pydoc://topics"


class Model(BaseModel):
    """The next character, from a .txt file or from pydoc://topics: the reference that comes with Python.

    A row is a window of the text. Its inputs are the codes of `_CONTEXT` characters, its labels those of the
    characters after each. The windows of the last part of the text are the test's.
    """

    name = "characters"
    classes = _SYMBOLS
    metric = "accuracy"
    steps = frozenset({"validate", "preprocess", "train", "evaluate", "clean"})
    split_by = "time"
    split_columns: Mapping[str, str] = {"time": "place"}
    params: Mapping[str, Param] = {
        **BaseModel.params,
        "width": Param(64, low=8, high=8192),
        "layers": Param(2, low=1, high=100),
        "heads": Param(4, low=1, high=128),
        "dropout": Param(0.1, high=0.9),
        "weight_decay": Param(0.0, high=1.0),
    }

    def load(self, source: str, params: Mapping[str, Any]) -> Columns:
        """Read the text of a URI, and cut it into windows, each with the character after it."""
        codes = np.frombuffer(_text(source).encode("ascii", "replace"), dtype=np.uint8)
        if len(codes) <= _CONTEXT:
            raise BadData(f"rule rows: the text has {len(codes)} characters, must be more than {_CONTEXT}")
        windows = np.lib.stride_tricks.sliding_window_view(codes, _CONTEXT + 1)[::_CONTEXT]
        return {"windows": np.ascontiguousarray(windows), "place": np.arange(len(windows)) * _CONTEXT}

    def check(self, columns: Columns) -> None:
        """Check schema, rows and codes, in this order."""
        if columns.keys() != {"windows", "place"}:
            raise BadData(f"rule schema: the arrays are {sorted(columns)}, must be windows and place")
        windows = columns["windows"]
        if windows.dtype != np.uint8 or windows.shape[1:] != (_CONTEXT + 1,):
            raise BadData(
                f"rule schema: windows are {windows.dtype} {windows.shape}, "
                f"must be uint8 (rows, {_CONTEXT + 1})"
            )
        if len(windows) < _MIN_ROWS:
            least = _MIN_ROWS * _CONTEXT
            raise BadData(
                f"rule rows: the text has about {len(windows) * _CONTEXT} characters, must be {least}"
            )
        if windows.max() >= _SYMBOLS:
            raise BadData(f"rule range: the highest code is {windows.max()}, must be below {_SYMBOLS}")

    def clean(self, columns: Columns) -> Rows:
        """Return the characters of each window, and those that come next."""
        windows = columns["windows"]
        inputs, labels = windows[:, :-1].astype(np.float32), windows[:, 1:].astype(np.int64)
        return Rows(inputs, labels, columns["place"], np.arange(len(windows)))

    def split(self, columns: Columns, rows: Rows, params: Mapping[str, Any]) -> splits.Split:
        """Split by the place in the text: windows beside each other tell of each other."""
        if params["split"] not in ("", self.split_by):
            raise BadConfig(
                f"parameter 'split' is {params['split']!r}; {self.name} splits by the place in the text "
                "alone, so leave it out"
            )
        return super().split(columns, rows, params)

    def network(self, inputs: npt.NDArray[np.float32], params: Mapping[str, Any]) -> torch.nn.Module:
        """Return a transformer, to logits (batch, classes, characters)."""
        from trainyard_trainer.networks import Transformer

        width, heads = params["width"], params["heads"]
        if width % heads:
            raise BadConfig(f"parameter 'width' is {width}, which {heads} heads cannot share; use a multiple")
        return Transformer(self.classes, _CONTEXT, width, params["layers"], heads, params["dropout"])


def _text(source: str) -> str:
    if source == _PYDOC:
        from pydoc_data.topics import topics

        return "\n".join(text for _, text in sorted(topics.items()))
    if not source.endswith(".txt"):
        raise BadConfig(f"--dataset is {source!r}; use {_PYDOC} or file:///.../NAME.txt (or s3://)")
    directory, name = storage.file(source)
    path = directory.place(name)
    try:
        return directory.read(name).decode()
    except FileNotFoundError:
        raise BadData(f"rule file: there is no file {path}") from None
    except OSError as error:
        raise storage_error("reading the source", path, error) from error
    except UnicodeDecodeError as error:
        raise BadData(f"rule format: {path} is no text in UTF-8: {error}") from error
