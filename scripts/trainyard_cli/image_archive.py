"""From `docker save` to an OCI image layout that holds only the layers that its reader lacks."""

import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from typing import IO, Any

OCI = "application/vnd.oci.image"
GZIP_MAGIC = b"\x1f\x8b"
BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")


def write(saved: Path, name: str, present: set[str], stream: IO[bytes]) -> None:
    """Write the image in the archive ``saved`` to ``stream`` as a tar of an OCI layout, named ``name``.

    ``present`` are the digests ("sha256:...") that the reader's content store holds: they are left out.
    """
    with tarfile.open(saved) as source, tarfile.open(fileobj=stream, mode="w|") as target:
        entry = json.load(_open(source, "manifest.json"))[0]
        config = _open(source, entry["Config"]).read()
        layers = []
        written = set(present)
        for path, diff_id in zip(entry["Layers"], json.loads(config)["rootfs"]["diff_ids"], strict=True):
            layer = _layer(source, path, diff_id)
            layers.append(layer)
            if layer["digest"] not in written:
                written.add(layer["digest"])
                _add(target, _blob_path(layer["digest"]), _open(source, path), layer["size"])
        manifest = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "layers": layers}
        manifest["config"] = _add_blob(target, config, f"{OCI}.config.v1+json")
        described = _add_blob(target, json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json")
        described["annotations"] = {"io.containerd.image.name": name}
        _add_bytes(target, "index.json", json.dumps({"schemaVersion": 2, "manifests": [described]}).encode())
        _add_bytes(target, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')


def _layer(source: tarfile.TarFile, path: str, diff_id: str) -> dict[str, Any]:
    """Describe a layer. Older Dockers save it uncompressed: its digest is the diff id. Newer ones name it."""
    named = BLOB.fullmatch(path)
    content = _open(source, path)
    kind = "tar+gzip" if content.read(2) == GZIP_MAGIC else "tar"
    size = content.seek(0, io.SEEK_END)
    digest = f"sha256:{named[1]}" if named else diff_id
    return {"mediaType": f"{OCI}.layer.v1.{kind}", "digest": digest, "size": size}


def _open(source: tarfile.TarFile, path: str) -> IO[bytes]:
    """Open a member; a layer that occurs twice is a link to the first."""
    content = source.extractfile(path)
    if content is None:
        raise ValueError(f"{path} in the saved image is no file")
    return content


def _add_blob(target: tarfile.TarFile, content: bytes, media_type: str) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    _add_bytes(target, _blob_path(digest), content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _add_bytes(target: tarfile.TarFile, path: str, content: bytes) -> None:
    _add(target, path, io.BytesIO(content), len(content))


def _add(target: tarfile.TarFile, path: str, content: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(path)
    member.size = size
    target.addfile(member, content)
