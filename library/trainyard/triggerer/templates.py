"""Templates that are rendered in the triggerer.

Three things differ from templates in a worker. A template that is one expression gives that expression's
value, so `{{ params.epochs }}` stays a number. An undefined name is an error. And `ti.xcom_pull` requests one
XCom at a time: the triggerer never answers the request for several that Airflow's own `xcom_pull` sends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk.definitions.xcom_arg import PlainXComArg, XComArg
from jinja2 import Environment, Undefined

from trainyard.airflow_compat import template_environment

# A template that is one expression and nothing else.
_EXPRESSION = re.compile(r"\s*\{\{((?:(?!\{\{|\}\}|\{%).)*)\}\}\s*", re.DOTALL)


class TemplateError(Exception):
    """A template cannot be rendered; the message names the argument."""


class TriggererTaskInstance:
    """The `ti` of templates: Airflow's, except that `xcom_pull` reads the XCom of one task instance."""

    def __init__(self, task_instance: Any) -> None:
        self._task_instance = task_instance

    def __getattr__(self, name: str) -> Any:
        """Any other attribute is Airflow's."""
        return getattr(self._task_instance, name)

    def xcom_pull(
        self, task_ids: str, key: str = "return_value", *, map_indexes: int = -1, default: Any = None
    ) -> Any:
        """The XCom `key` of task `task_ids` in this DAG run; `map_indexes` is the index in a mapped task."""
        return self._task_instance.xcom_pull(
            task_ids=task_ids, key=key, map_indexes=map_indexes, default=default
        )


def as_template(value: Any) -> Any:
    """Replace outputs of other tasks (`task.output["key"]`) in `value` by templates that read them.

    Raises:
        ValueError: the triggerer cannot read this kind of output.
    """
    if isinstance(value, PlainXComArg):
        if value.operator.is_mapped:
            raise ValueError(
                "a task in the triggerer cannot read all outputs of the mapped task "
                f"{value.operator.task_id!r}; collect them in a @task and pass on its output"
            )
        return (
            f"{{{{ ti.xcom_pull(task_ids={value.operator.task_id!r}, key={value.key!r}, map_indexes=-1) }}}}"
        )
    if isinstance(value, XComArg):
        raise ValueError(f"{value!r}: only plain outputs (task.output, task.output['key']) can be passed on")
    if isinstance(value, Mapping):
        return {key: as_template(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_template(item) for item in value]
    return value


def render(fields: Mapping[str, Any], context: Mapping[str, Any], **extra: Any) -> dict[str, Any]:
    """Render every string in `fields`; `extra` are more variables for the templates.

    Raises:
        TemplateError: a template is invalid or uses an undefined name.
    """
    env = template_environment()
    names = {**context, **extra, "ti": TriggererTaskInstance(context["ti"])}
    rendered = {}
    for field, value in fields.items():
        try:
            rendered[field] = _render(env, value, names)
        except Exception as error:
            raise TemplateError(f"{field}={value!r} cannot be rendered: {error}") from error
    return rendered


def _render(env: Environment, value: Any, names: dict[str, Any]) -> Any:
    if isinstance(value, str):
        if expression := _EXPRESSION.fullmatch(value):
            result = env.compile_expression(expression[1], undefined_to_none=False)(names)
            return str(result) if isinstance(result, Undefined) else result  # str() raises: it is strict
        return env.from_string(value).render(names)
    if isinstance(value, Mapping):
        return {key: _render(env, item, names) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_render(env, item, names) for item in value]
    return value
