"""Training tasks: one step of the trainer contract in a pod, or in a gang of pods."""
