"""The device and the numeric set-up: the same inputs give the same weights, bit for bit."""

import hashlib
import os
from pathlib import Path

import torch

from trainyard_trainer import log
from trainyard_trainer.errors import BadConfig

_MOST_THREADS = 4  # more do not help networks of this size, and spin


def device(name: str) -> torch.device:
    """Set torch up and return the device. Raises BadConfig when CUDA is demanded and is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise BadConfig(
            "TRAINYARD_DEVICE is cuda, but torch finds no CUDA device; run the CUDA variant of the image "
            "in a pod that requests a GPU, or set TRAINYARD_DEVICE=cpu"
        )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic CUDA asks for it
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    # Sums depend on how they are split: a run resumed with other threads may differ in the last bits.
    threads = max(1, min(cpu_limit(), _MOST_THREADS))
    torch.set_num_threads(threads)
    hardware = torch.cuda.get_device_name() if name == "cuda" else "cpu"
    log.event("device_ready", device=name, hardware=hardware, threads=threads, torch=torch.__version__)
    return torch.device(name)


def cpu_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the whole CPUs that this container may use: its cgroup's quota (v1 or v2), else all it sees."""
    cpus = len(os.sched_getaffinity(0))
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
    except OSError:
        return cpus
    if quota in ("max", "-1"):
        return cpus
    return max(1, min(cpus, int(quota) // int(period)))


def weights_sha256(network: torch.nn.Module) -> str:
    """Return the SHA-256 over the names and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
