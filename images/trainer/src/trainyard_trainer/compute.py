"""The device and the numeric set-up: the same inputs give the same weights, bit for bit."""

import hashlib
import os

import torch

from trainyard_trainer import log
from trainyard_trainer.errors import BadConfig


def device(name: str, threads: int) -> torch.device:
    """Set torch up with that number of CPU threads and return the device.

    Raises BadConfig when CUDA is demanded and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise BadConfig(
            "TRAINYARD_DEVICE is cuda, but torch finds no CUDA device; run the CUDA variant of the image "
            "in a pod that requests a GPU, or set TRAINYARD_DEVICE=cpu"
        )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic CUDA asks for it
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(threads)
    hardware = torch.cuda.get_device_name() if name == "cuda" else "cpu"
    log.event("device_ready", device=name, hardware=hardware, threads=threads, torch=torch.__version__)
    return torch.device(name)


def weights_sha256(network: torch.nn.Module) -> str:
    """Return the SHA-256 over the names and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
