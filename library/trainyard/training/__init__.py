"""Training tasks: one step of the trainer contract in one pod, or in a gang of pods on several nodes."""
