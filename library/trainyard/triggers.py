"""The path of this trigger in release 0.1, as deferred tasks of that time name it. Gone in 0.3."""

from trainyard.training.trigger import TrainingPodTrigger

__all__ = ["TrainingPodTrigger"]
