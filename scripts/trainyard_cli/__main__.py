"""python -m trainyard_cli COMMAND: what each program in scripts/ executes."""

from .cli import main

main()
