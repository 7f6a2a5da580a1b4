"""The device, and settings by which the same inputs give the same weights, bit for bit."""

import hashlib
import os

import torch
from threadpoolctl import threadpool_limits
from trainyard_contract import Env

from trainyard_trainer import log
from trainyard_trainer.errors import BadConfig


def device(name: str, threads: int, local_rank: int = 0, *, deterministic: bool = True) -> torch.device:
    """Configure torch for that number of CPU threads, and return the device: a GPU is chosen by local rank.

    Not `deterministic`, torch may use operations whose results differ from call to call, and are faster.

    Raises BadConfig when `name` is cuda and there is no CUDA device, or too few.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise BadConfig(
            f"{Env.DEVICE} is cuda, but torch finds no CUDA device; run the CUDA variant of the image "
            f"in a pod that requests a GPU, or set {Env.DEVICE}=cpu"
        )
    if name == "cuda" and local_rank >= torch.cuda.device_count():
        raise BadConfig(
            f"{Env.LOCAL_RANK} is {local_rank}, but torch finds {torch.cuda.device_count()} CUDA devices; "
            f"each process needs one: set {Env.LOCAL_WORLD_SIZE} to at most the number of the pod's GPUs"
        )
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic CUDA needs it
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    torch.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")  # torch leaves OpenBLAS one thread for each core
    found, hardware = torch.device(name), "cpu"
    if name == "cuda":
        found = torch.device("cuda", local_rank)
        torch.cuda.set_device(found)  # for NCCL, and for tensors on "cuda"
        hardware = torch.cuda.get_device_name(found)
    log.event("device_ready", device=str(found), hardware=hardware, threads=threads, torch=torch.__version__)
    return found


def seed(number: int, device: torch.device) -> None:
    """Seed the generators that a computation on the device uses.

    Each call of torch.manual_seed leaves a call with its stack trace behind for every kind of GPU that the
    process does not use.
    """
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def weights_sha256(network: torch.nn.Module) -> str:
    """Return the SHA-256 over the names and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
