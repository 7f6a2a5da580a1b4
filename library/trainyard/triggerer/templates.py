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

from trainyard.airflow_compat import group_argument, mapped_group, template_environment
from trainyard.triggerer.mapping import resolve_mapped

# A template that is one expression and nothing else.
_EXPRESSION = re.compile(r"\s*\{\{((?:(?!\{\{|\}\}|\{%).)*)\}\}\s*", re.DOTALL)


# The key of a dict that stands for an argument of the mapped task group of a task.
_GROUP_ARGUMENT = "__group_argument__"


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

    def output_in_group(self, task_id: str, key: str, group: str) -> Any:
        """The XCom of the task in this instance of the mapped task group of both.

        Raises:
            ValueError: this task is not in the group.
        """
        if mapped_group(self._task_instance.task) != group:
            raise ValueError(
                f"{task_id} has an output in each instance of the mapped task group {group!r}, which this "
                "task is not in; collect them in a @task and pass on its output"
            )
        return self.xcom_pull(task_id, key, map_indexes=self._task_instance.map_index)


def as_template(value: Any) -> Any:
    """Replace what is known only in a run by what `render` makes of it.

    That are outputs of other tasks (`task.output["key"]`) and the arguments of a mapped task group.

    Raises:
        ValueError: the triggerer cannot read this kind of output.
    """
    if isinstance(value, PlainXComArg):
        return _as_pull(value)
    if isinstance(value, XComArg):
        raise ValueError(f"{value!r}: only plain outputs (task.output, task.output['key']) can be passed on")
    if argument := group_argument(value):
        return {_GROUP_ARGUMENT: as_template(argument)}
    if isinstance(value, Mapping):
        return {key: as_template(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_template(item) for item in value]
    return value


def _as_pull(output: PlainXComArg) -> str:
    task = output.operator
    if task.is_mapped:
        raise ValueError(
            "a task in the triggerer cannot read all outputs of the mapped task "
            f"{task.task_id!r}; collect them in a @task and pass on its output"
        )
    if group := mapped_group(task):
        return f"{{{{ ti.output_in_group({task.task_id!r}, {output.key!r}, {group!r}) }}}}"
    return f"{{{{ ti.xcom_pull(task_ids={task.task_id!r}, key={output.key!r}, map_indexes=-1) }}}}"


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
        rendered = {key: _render(env, item, names) for key, item in value.items()}
        if _GROUP_ARGUMENT not in rendered:
            return rendered
        mapped, name = rendered[_GROUP_ARGUMENT]
        return resolve_mapped({"mapped": mapped}, names["ti"].map_index)[name]
    if isinstance(value, Sequence):
        return [_render(env, item, names) for item in value]
    return value
