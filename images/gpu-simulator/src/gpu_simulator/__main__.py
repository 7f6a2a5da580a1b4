"""Run the simulator: `python3 -m gpu_simulator [serve | check | healthy ID | unhealthy ID]`."""

import sys

from gpu_simulator.cli import main

sys.exit(main())
