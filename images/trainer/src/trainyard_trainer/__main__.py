"""Run the trainer: `python3 -m trainyard_trainer <step> ...`."""

import sys

from trainyard_trainer.cli import main

sys.exit(main())
