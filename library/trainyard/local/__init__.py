"""Training without a cluster: `./scripts/run --local`."""
