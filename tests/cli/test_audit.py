"""What ./scripts/audit makes of vulnerabilities and licences."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from trainyard_cli import audit, paths
from trainyard_cli.errors import CliError
from trainyard_cli.stages import Stages

LOCK = "affected==1.0 --hash=sha256:{0}\nharmless==2.0 --hash=sha256:{0}\n".format("0" * 64)


class Osv(http.server.BaseHTTPRequestHandler):
    """A vulnerability service that speaks OSV's protocol and knows one vulnerability."""

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = []
        if query["package"]["name"] == "affected":
            event = [{"introduced": "0"}, {"fixed": "1.1"}]
            package = {"name": "affected", "ecosystem": "PyPI"}
            ranges = [{"package": package, "ranges": [{"type": "ECOSYSTEM", "events": event}]}]
            found = [
                {"id": "PYSEC-1", "modified": "2026-01-01T00:00:00Z", "details": "x", "affected": ranges}
            ]
        content = json.dumps({"vulns": found}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def osv(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Osv) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setenv("PIP_AUDIT_VULNERABILITY_SERVICE", "osv")
        monkeypatch.setenv("PIP_AUDIT_OSV_URL", url)
        yield url
        running.shutdown()


def show(file: Path) -> tuple[int, str]:
    out = Console(record=True, width=200)
    with Stages(Console(quiet=True)) as stages:
        found = audit.vulnerabilities(stages, [file], out)
    return found, out.export_text()


def test_a_vulnerability_is_told_with_its_cure(osv: str, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text(LOCK)
    found, told = show(lock)
    assert found == 1
    row = next(line for line in told.splitlines() if "PYSEC-1" in line)
    assert "affected" in row
    assert row.split()[-1] == "1.1"
    assert "harmless" not in told


def test_without_vulnerabilities_it_says_so(osv: str, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text(LOCK.partition("\n")[2])
    assert show(lock) == (0, "no known vulnerabilities\n")


def test_a_service_that_does_not_answer_is_an_error(
    osv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_AUDIT_OSV_URL", "http://127.0.0.1:1")
    (tmp_path / "requirements.txt").write_text(LOCK)
    with pytest.raises(CliError, match="nothing was checked") as error:
        show(tmp_path / "requirements.txt")
    assert "PIP_AUDIT_OSV_URL" in error.value.cure


def test_every_lock_is_checked() -> None:
    found = {str(file.relative_to(paths.ROOT)) for file in audit.locks()}
    written = {
        str(file.with_suffix(".txt").relative_to(paths.ROOT))
        for folder in ("images", "scripts")
        for file in (paths.ROOT / folder).rglob("*.in")
    }
    assert found == written


def component(purl: str, name: str, *licences: dict[str, object]) -> dict[str, object]:
    return {"purl": f"pkg:{purl}", "name": name, "version": "1", "licenses": list(licences)}


def test_licences_that_need_a_look(tmp_path: Path) -> None:
    document = {
        "components": [
            component("pypi/free@1", "free", {"license": {"id": "MIT"}}),
            component("pypi/copyleft@1", "copyleft", {"license": {"id": "AGPL-3.0-only"}}),
            component("pypi/either@1", "either", {"expression": "MIT OR Apache-2.0"}),
            component("golang/silent@1", "silent"),
            component(
                "golang/notice@1", "notice", {"license": {"name": "sha256:00"}}, {"license": {"id": "MIT"}}
            ),
            component("deb/debian/bash@1", "bash", {"license": {"id": "GPL-3.0-or-later"}}),
            component("pypi/seen@1", "seen", {"license": {"id": "GPL-2.0-only"}}),
            {"type": "operating-system", "name": "debian"},
        ]
    }
    (tmp_path / "image.cdx.json").write_text(json.dumps(document))
    policy = audit.read_policy()
    policy["looked_at"]["pypi"] = {"seen": "a program of its own"}
    pending = audit.to_look_at(audit.components([tmp_path / "image.cdx.json"]), policy)
    assert {each.name: licence for each, licence in pending.items()} == {
        "copyleft": "AGPL-3.0-only",
        "silent": audit.UNKNOWN,
    }
