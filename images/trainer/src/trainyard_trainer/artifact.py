"""A trained model as a directory: the model in MLflow's PyTorch layout, metrics.json, config.yaml, examples.

The model predicts the probability of each class. A few inputs and their predictions are saved with it, so
that a model server can run a smoke test.

The network is saved as TorchScript, which includes its architecture: to load it, no class of this package is
needed. The layout is written here, as mlflow.pytorch would pickle the network's class.
"""

import json
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import yaml

from trainyard_trainer import storage
from trainyard_trainer.errors import BadData, storage_error

_WEIGHTS = Path("data/model.pth")
# MLflow's own names.
INPUT_EXAMPLE = "serving_input_example.json"
OUTPUT_EXAMPLE = "serving_output_example.json"


def save(
    network: torch.nn.Module,
    directory: Path,
    *,
    example: torch.Tensor,
    metrics: Mapping[str, Any],
    config: Mapping[str, Any],
) -> None:
    """Write the model of a network that returns logits, the example inputs and their predictions.

    Raises Temporary when the disk is full.
    """
    model = torch.nn.Sequential(network, torch.nn.Softmax(dim=1)).cpu().eval()
    script = BytesIO()
    torch.jit.save(torch.jit.script(model), script)
    with torch.no_grad():
        predictions = model(example.cpu())
    flavors = {
        "pytorch": {"model_data": "data", "pytorch_version": str(torch.__version__), "code": None},
        "python_function": {"loader_module": "mlflow.pytorch", "data": "data"},
    }
    files = {
        _WEIGHTS: script.getvalue(),
        # mlflow.pytorch imports the module that this file names.
        Path("data/pickle_module_info.txt"): b"mlflow.pytorch.pickle_module",
        Path("metrics.json"): json.dumps(metrics, indent=2, sort_keys=True).encode(),
        Path(INPUT_EXAMPLE): json.dumps({"inputs": example.tolist()}).encode(),
        Path(OUTPUT_EXAMPLE): json.dumps({"predictions": predictions.tolist()}).encode(),
        Path("config.yaml"): yaml.safe_dump(dict(config)).encode(),
        Path("MLmodel"): yaml.safe_dump(
            {"flavors": flavors, "signature": _signature(example, predictions)}
        ).encode(),
    }
    for name, content in files.items():
        try:
            storage.publish_file(directory / name, content)
        except OSError as error:
            raise storage_error("writing the model", directory / name, error) from error


def _signature(inputs: torch.Tensor, outputs: torch.Tensor) -> dict[str, Any]:
    """Return type and shape of a row, as MLflow has them in MLmodel; the number of rows is any."""

    def schema(tensor: torch.Tensor) -> str:
        spec = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": [-1, *tensor.shape[1:]]}
        return json.dumps([{"type": "tensor", "tensor-spec": spec}])

    return {"inputs": schema(inputs), "outputs": schema(outputs), "params": None}


def load(directory: Path) -> torch.nn.Module:
    """Load the network from a directory that `save` wrote. Raises BadData when it is damaged."""
    try:
        network: torch.nn.Module = torch.jit.load(str(directory / _WEIGHTS), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise BadData(f"the model in {directory} cannot be read: {error}") from error
    return network.eval()


def name(model: str, date: str, commit: str, params: Mapping[str, Any], score: str) -> str:
    """Return a name of date, commit, hyperparameters and score, in characters that MLflow allows."""
    parts = [model, date, commit[:7] or "nocommit"]
    parts += [f"lr{params['learning_rate']:g}", f"bs{params['batch_size']}", f"e{params['epochs']}"]
    parts += [f"seed{params['seed']}", score]
    return re.sub(r"[^A-Za-z0-9_-]", "_", "-".join(parts))
