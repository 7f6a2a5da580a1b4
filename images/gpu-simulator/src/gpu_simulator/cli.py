"""The command line."""

import argparse
from collections.abc import Sequence

import grpc

from gpu_simulator import health, log, server
from gpu_simulator.config import Config, ConfigError

_BAD_CONFIG, _FAILED = 64, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 64 for a wrong environment or device, 1 for no response."""
    parser = argparse.ArgumentParser(
        prog="gpu_simulator", description="Advertise simulated GPUs to the kubelet."
    )
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="serve the device plugin (the default)")
    commands.add_parser("check", help="exit with 0 if the simulator on this node responds")
    for state in ("healthy", "unhealthy"):
        commands.add_parser(state, help=f"mark a device {state}").add_argument("device")
    parsed = parser.parse_args(arguments)
    try:
        config = Config.from_environment()
        if parsed.command == "check":
            server.check(config)
        elif parsed.command in ("healthy", "unhealthy"):
            health.mark(config, parsed.device, healthy=parsed.command == "healthy")
        else:
            server.run(config)
    except (ConfigError, ValueError) as error:
        log.event("failed", level="error", error=str(error))
        return _BAD_CONFIG
    except grpc.RpcError as error:
        log.event("failed", level="error", error=f"no response: {error.details()}")
        return _FAILED
    except OSError as error:
        log.event("failed", level="error", error=f"{error.filename}: {error.strerror}")
        return _FAILED
    return 0
