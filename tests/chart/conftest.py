"""Settings of every process in which the chart's tests run helm."""

import os

# Helm ends long before collecting its garbage pays: a quarter of its CPU time.
os.environ["GOGC"] = "off"
