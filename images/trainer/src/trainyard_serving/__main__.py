"""`python -m trainyard_serving`."""

import sys

from trainyard_serving.server import main

sys.exit(main())
