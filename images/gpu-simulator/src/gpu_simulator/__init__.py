"""A device plugin that advertises simulated GPUs to the kubelet, for clusters on a laptop or in CI."""
