"""A container runtime: runc, asking only for the capabilities that this host can grant.

A host may lack a capability for good (it is missing from the bounding set of every process); there runc
refuses each privileged container. host.py makes this file Docker's default runtime on such hosts only.
It runs by itself, outside the package, so it needs nothing but Python's standard library.
"""

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

# In the kernel's order (include/uapi/linux/capability.h): the place in the list is the bit's number.
_NAMES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
    SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
    AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
    PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES = _NAMES.split()


def granted(status: str) -> set[str]:
    """Return the names (CAP_...) in the bounding set, from the text of /proc/<pid>/status."""
    bits = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd:"))
    return {f"CAP_{name}" for bit, name in enumerate(CAPABILITIES) if bits >> bit & 1}


def missing(status: str, last_capability: int) -> set[str]:
    """Return what the kernel knows (bits 0 to ``last_capability``) and the bounding set lacks."""
    return {f"CAP_{name}" for name in CAPABILITIES[: last_capability + 1]} - granted(status)


def trim(process: dict[str, Any], allowed: set[str]) -> None:
    """Drop from an OCI process description, in place, every capability that is not allowed."""
    capabilities = process.get("capabilities") or {}
    for kind, names in capabilities.items():
        capabilities[kind] = [name for name in names if name in allowed]


def _trim_file(path: Path, key: str | None, allowed: set[str]) -> None:
    description = json.loads(path.read_text())
    trim(description[key] if key else description, allowed)
    path.write_text(json.dumps(description))


def main(arguments: list[str]) -> None:
    """Trim the descriptions that runc is about to read, then become runc."""
    allowed = granted(Path("/proc/self/status").read_text())
    for option, value in itertools.pairwise(arguments):
        if option in ("--bundle", "-b"):
            _trim_file(Path(value) / "config.json", "process", allowed)
        elif option in ("--process", "-p") and "exec" in arguments:
            _trim_file(Path(value), None, allowed)
    os.execvp("runc", ["runc", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
