"""How the release of ./scripts/up is called."""

RELEASE = "trainyard"
NAMESPACE = "trainyard"
