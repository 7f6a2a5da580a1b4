"""The models: each module except `base` is one. Its name is the model's, and it has a class `Model`."""

from importlib import import_module
from pkgutil import iter_modules

from trainyard_trainer.errors import BadConfig
from trainyard_trainer.models.base import BaseModel


def names() -> list[str]:
    """Return the allowed values of the parameter `model`."""
    return sorted(module.name for module in iter_modules(__path__) if module.name != "base")


def load(name: str) -> BaseModel:
    """Return the model of that name. Raises BadConfig."""
    if name not in names():
        raise BadConfig(f"parameter 'model' is {name!r}; known: {', '.join(names())}")
    model: BaseModel = import_module(f"{__name__}.{name}").Model()
    return model
