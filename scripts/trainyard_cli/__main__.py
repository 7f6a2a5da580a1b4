"""python -m trainyard_cli COMMAND: what scripts/up, down, test and run execute."""

from .cli import main

main()
