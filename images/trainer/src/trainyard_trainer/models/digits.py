"""Handwritten digits: the 1797 images of 8x8 pixels in scikit-learn, and a small CNN."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainyard_trainer import storage
from trainyard_trainer.errors import BadConfig, BadData
from trainyard_trainer.lake import Columns
from trainyard_trainer.models.base import BaseModel, Rows
from trainyard_trainer.params import Param

if TYPE_CHECKING:
    import torch

_SIZE = 8  # pixels
_WHITE = 16  # the highest value of a pixel
_MIN_ROWS = 500
_MIN_SHARE = 0.05  # of each digit among all rows
_DROPOUT = 0.25


class Model(BaseModel):
    """Digits 0 to 9 from sklearn://digits, or from a .npz file with arrays `images` and `labels`."""

    name = "digits"
    classes = 10
    metric = "f1_macro"
    params: Mapping[str, Param] = {**BaseModel.params, "dropout": Param(_DROPOUT, high=0.9)}

    def load(self, source: str, params: Mapping[str, Any]) -> Columns:
        """Read the images of a URI."""
        if source == "sklearn://digits":
            from sklearn.datasets import load_digits

            digits = load_digits()
            return {"images": digits.images, "labels": digits.target}
        if not source.endswith(".npz"):
            raise BadConfig(
                f"--dataset is {source!r}; use sklearn://digits or file:///.../digits.npz (or s3://)"
            )
        directory, name = storage.file(source)
        path = directory.place(name)
        try:
            with np.load(BytesIO(directory.read(name)), allow_pickle=False) as arrays:
                return dict(arrays)
        except FileNotFoundError:
            raise BadData(f"there is no file {path}") from None
        except Exception as error:  # a damaged zip can raise any exception
            raise BadData(f"{path} cannot be read as .npz: {error}") from error

    def check(self, columns: Columns) -> None:
        """Check schema, rows, missing values, value range, label set and class balance, in this order."""
        if columns.keys() != {"images", "labels"}:
            raise BadData(f"rule schema: the arrays are {sorted(columns)}, must be images and labels")
        images, labels = columns["images"], columns["labels"]
        if images.shape[1:] != (_SIZE, _SIZE) or labels.shape != images.shape[:1]:
            raise BadData(
                f"rule schema: images are {images.shape} and labels {labels.shape}, "
                f"must be (rows, {_SIZE}, {_SIZE}) and (rows,)"
            )
        if images.dtype.kind not in "iuf" or labels.dtype.kind not in "iu":
            raise BadData(
                f"rule schema: images are {images.dtype} and labels {labels.dtype}, "
                "must be numbers and whole numbers"
            )
        if len(images) < _MIN_ROWS:
            raise BadData(f"rule rows: there are {len(images)}, must be at least {_MIN_ROWS}")
        self._check_values(images, labels)

    def _check_values(self, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        missing = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2)))
        if len(missing):
            raise BadData(f"rule missing: {len(missing)} images lack values, the first is row {missing[0]}")
        outside = np.flatnonzero(((images < 0) | (images > _WHITE)).any(axis=(1, 2)))
        if len(outside):
            raise BadData(
                f"rule range: {len(outside)} images have pixels outside 0 to {_WHITE}, "
                f"the first is row {outside[0]}"
            )
        found = set(np.unique(labels).tolist())
        if found != set(range(self.classes)):
            raise BadData(f"rule labels: found {sorted(found)}, must be all of 0 to {self.classes - 1}")
        shares = np.bincount(labels, minlength=self.classes) / len(labels)
        if shares.min() < _MIN_SHARE:
            raise BadData(
                f"rule balance: digit {shares.argmin()} is {shares.min():.1%} of the rows, "
                f"must be at least {_MIN_SHARE:.0%}"
            )

    def clean(self, columns: Columns) -> Rows:
        """Scale the pixels to 0 to 1."""
        labels = columns["labels"].astype(np.int64)
        inputs = (columns["images"] / _WHITE).astype(np.float32)[:, np.newaxis]
        number = np.arange(len(labels))
        return Rows(inputs, labels, number, number)

    def network(self, inputs: npt.NDArray[np.float32], params: Mapping[str, Any]) -> torch.nn.Module:
        """Return a network of two convolutions and two dense layers."""
        from torch import nn

        return nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (_SIZE // 2) ** 2, 128),
            nn.ReLU(),
            nn.Dropout(params.get("dropout", _DROPOUT)),
            nn.Linear(128, self.classes),
        )
