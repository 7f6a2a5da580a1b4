"""A device plugin that offers the kubelet GPUs which do not exist, for clusters on a laptop or in CI."""
