"""Writes swarmtrain/proto/*_pb2.py and .pyi from the .proto files beside this script.

    python proto/generate.py [OUTPUT_FOLDER]

Needs grpcio-tools, which only a developer who changes a .proto file has to install.
"""

import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent


def generate(output: Path) -> None:
    """Generate every module below `output`/swarmtrain/proto."""
    from grpc_tools import protoc

    output.mkdir(parents=True, exist_ok=True)
    files = sorted(str(path) for path in SOURCES.rglob("*.proto"))
    options = [f"-I{SOURCES}", f"--python_out={output}", f"--pyi_out={output}"]
    if protoc.main(["protoc", *options, *files]):
        raise SystemExit("protoc failed; its message stands above")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCES.parent)
