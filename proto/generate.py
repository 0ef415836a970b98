"""Generate ``hcefs/wire/v1`` from ``proto/``; with ``--check``, only compare.

The generated code is committed, so that installing needs no compiler; ``make
check`` runs this with ``--check``.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
WIRE = ROOT / "hcefs" / "wire" / "v1"
PACKAGE = "hcefs.v1"
MODULE = "hcefs.wire.v1"


def generate(folder: Path) -> dict[str, str]:
    """The generated files by name, with imports pointing into ``hcefs.wire``."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    code = protoc.main(
        [
            "protoc",
            f"-I{PROTO}",
            f"-I{files('grpc_tools') / '_proto'}",
            f"--python_out={folder}",
            f"--grpc_python_out={folder}",
            f"--pyi_out={folder}",
            *sources,
        ]
    )
    if code != 0:
        raise SystemExit("protoc failed: see its message above")
    return {
        path.name: path.read_text(encoding="utf-8").replace(
            f"from {PACKAGE} import", f"from {MODULE} import"
        )
        for path in sorted((folder / "hcefs" / "v1").iterdir())
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
    if "--check" in sys.argv[1:]:
        stale = [
            name
            for name, text in fresh.items()
            if not (WIRE / name).is_file() or (WIRE / name).read_text(encoding="utf-8") != text
        ]
        stale += [path.name for path in WIRE.glob("*_pb2*") if path.name not in fresh]
        if stale:
            raise SystemExit(f"generated code is stale: {', '.join(stale)}; run: make proto")
        return
    for old in WIRE.glob("*_pb2*"):
        old.unlink()
    for name, text in fresh.items():
        (WIRE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
