"""What of rendered objects is shown as different, and how."""

from __future__ import annotations

from typing import Any

from trainyard_cli import diff
from trainyard_cli.diff import Change, Result

Json = dict[str, Any]


def one(kind: str, name: str, **more: Any) -> Json:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "ml"}, **more}


def shown(before: list[Json], after: list[Json]) -> list[tuple[str, str]]:
    return [(each.what, each.title) for each in diff.compare(before, after)]


def test_objects_are_added_removed_and_changed_in_order() -> None:
    before = [
        one("Service", "b"),
        one("ConfigMap", "same", data={"k": "1"}),
        one("ConfigMap", "c", data={"k": "1"}),
    ]
    after = [
        one("ConfigMap", "c", data={"k": "2"}),
        one("Deployment", "a"),
        one("ConfigMap", "same", data={"k": "1"}),
    ]
    assert shown(before, after) == [
        ("changed", "ConfigMap ml/c"),
        ("added", "Deployment ml/a"),
        ("removed", "Service ml/b"),
    ]


def test_a_change_is_a_unified_diff() -> None:
    (change,) = diff.compare(
        [one("ConfigMap", "c", data={"k": "1"})], [one("ConfigMap", "c", data={"k": "2"})]
    )
    assert change.lines == [
        "@@ -1,6 +1,6 @@",
        " apiVersion: v1",
        " data:",
        "-  k: '1'",
        "+  k: '2'",
        " kind: ConfigMap",
        " metadata:",
        "   name: c",
    ]


def test_a_job_of_another_hash_is_the_same_job_changed() -> None:
    before, after = (
        one("Job", "migrate-0a1b2c3d", spec={"a": 1}),
        one("Job", "migrate-99999999", spec={"a": 2}),
    )
    (change,) = diff.compare([before], [after])
    assert (change.what, change.title) == ("changed", "Job ml/migrate-0a1b2c3d -> migrate-99999999")
    assert "-  a: 1" in change.lines and "+  a: 2" in change.lines


def test_only_a_hash_at_the_end_pairs_names() -> None:
    assert shown([one("Job", "a-0a1b2c3d")], [one("Job", "b-0a1b2c3d")]) == [
        ("removed", "Job ml/a-0a1b2c3d"),
        ("added", "Job ml/b-0a1b2c3d"),
    ]
    assert shown([one("Job", "a-0a1b2c3d")], [one("CronJob", "a-99999999")]) == [
        ("added", "CronJob ml/a-99999999"),
        ("removed", "Job ml/a-0a1b2c3d"),
    ]


def test_the_same_name_of_another_api_is_another_object() -> None:
    other = {**one("Ingress", "a"), "apiVersion": "example.com/v1"}
    assert sorted(shown([one("Ingress", "a")], [other])) == [
        ("added", "Ingress ml/a"),
        ("removed", "Ingress ml/a"),
    ]


def test_values_of_secrets_are_never_shown_but_which_of_them_change() -> None:
    before = one("Secret", "s", data={"a": "c2VjcmV0", "b": "b2xk"}, stringData={"c": "clear"})
    after = one("Secret", "s", data={"a": "c2VjcmV0", "b": "bmV3"}, stringData={"c": "clear"}, type="Opaque")
    for objects in ([before], [after]), ([], [after]), ([before], []):
        text = "\n".join(diff.as_text([Result("dev", diff.compare(*objects))]))
        assert not [value for value in ("c2VjcmV0", "b2xk", "bmV3", "clear") if value in text], text
    (change,) = diff.compare([before], [after])
    assert "-  b: (hidden, old value)" in change.lines and "+  b: (hidden, new value)" in change.lines
    assert "   a: (hidden)" in change.lines


def test_lines_of_a_text_are_compared() -> None:
    before, after = (
        one("ConfigMap", "c", data={"f": "one\ntwo\n"}),
        one("ConfigMap", "c", data={"f": "one\n2\n"}),
    )
    (change,) = diff.compare([before], [after])
    assert [line for line in change.lines if line[0] in "+-"] == ["-    two", "+    2"]


def test_a_difference_of_blanks_is_a_difference() -> None:
    assert shown(
        [one("ConfigMap", "c", data={"f": "a\nb \n"})], [one("ConfigMap", "c", data={"f": "a\nb\n"})]
    )


def changes(count: int, lines: int = 3) -> list[Change]:
    return [Change("added", f"ConfigMap ml/c{number}", ["+ a: b"] * lines) for number in range(count)]


def test_a_comment_folds_each_object() -> None:
    text = diff.as_markdown([Result("dev", changes(1), chart="main"), Result("production")])
    assert "### dev: 1 added (chart: `main`)" in text
    assert "<details><summary>added ConfigMap ml/c0</summary>\n\n```diff\n+ a: b\n" in text
    assert "### production: no difference" in text


def test_a_comment_keeps_to_its_size_and_names_what_it_leaves_out() -> None:
    for count, lines, size in ((100, 100, 10_000), (3, 2000, 8_000), (5000, 1, 65_000)):
        text = diff.as_markdown([Result("dev", changes(count, lines))], size)
        assert len(text) <= size
        left_out = count - text.count("<details>")
        assert f"no room for {left_out} more" in text
        assert text.count("<details>") == text.count("</details>")
        listed = text.count("- dev: added")
        assert left_out == listed or f"and {left_out - listed} more" in text


def test_a_long_error_has_no_room_either() -> None:
    text = diff.as_markdown([Result("dev", error="helm " * 15_000, broken=True)])
    assert len(text) <= diff.COMMENT_SIZE
    assert "### dev: does not render" in text
    assert "- dev: the error\n" in text


def test_a_fence_in_the_diff_does_not_end_the_block() -> None:
    text = diff.as_markdown([Result("dev", [Change("added", "ConfigMap ml/c", ["+ ```"])])])
    assert "````diff\n+ ```\n````\n" in text


def test_what_does_not_render_says_so() -> None:
    broken = Result("dev", error="no\n  cure: yes", broken=True)
    assert list(diff.as_text([broken])) == ["=== dev: does not render", "  no", "    cure: yes"]
    assert "```\nno\n  cure: yes\n```" in diff.as_markdown([broken])
