module trainyard.dev/kind-node/pause

go 1.25.0

tool trainyard.dev/kind-node/pause
