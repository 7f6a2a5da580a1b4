"""What names an object."""

from trainyard_cli.objects import Identity


def test_an_object_is_named_by_kind_group_namespace_and_name() -> None:
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a", "namespace": "ml"}}
    found = Identity.of(job, "elsewhere")
    assert (found, found.title) == (Identity("Job", "ml", "a", "batch"), "Job ml/a")


def test_an_object_without_a_namespace_goes_where_it_is_installed() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}
    assert Identity.of(service, "ml").title == "Service ml/a"
    assert Identity.of({**service, "kind": "Namespace"}).title == "Namespace a"
