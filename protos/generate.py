"""Generate steerd/pb from the .proto files: `python protos/generate.py [FOLDER]` (default: the repository).

protoc derives Python imports from file names, so the descriptors are renamed from `steerd/v1/` to
`steerd/pb/v1/` before code is made from them; the code then imports itself from where it lies.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

PROTOS = Path(__file__).parent
WIRE_FOLDER = "steerd/v1/"
PYTHON_FOLDER = "steerd/pb/v1/"


def main(argv: list[str]) -> None:
    """Write the generated code below the folder that is named, or below the repository's root."""
    generate(Path(argv[1]) if len(argv) > 1 else PROTOS.parent)


def generate(target: Path) -> None:
    """Write `steerd/pb/v1/*_pb2.py`, their stubs and the service code below `target`."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        descriptors = Path(scratch) / "descriptors.binpb"
        sources = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.glob(f"{WIRE_FOLDER}*.proto"))
        _compile(f"-I{PROTOS}", "--include_imports", "--include_source_info", f"-o{descriptors}", *sources)
        descriptors.write_bytes(_renamed(descriptors.read_bytes()))
        from_descriptors = (f"--descriptor_set_in={descriptors}", *_stub_plugins())
        files = [_moved(source) for source in sources]
        _compile(*from_descriptors, f"--python_out={target}", f"--mypy_out=quiet:{target}", *files)
        services = [file for file in files if file.endswith("_service.proto")]
        _compile(
            *from_descriptors, f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}", *services
        )


def _stub_plugins() -> tuple[str, ...]:
    """mypy-protobuf writes stubs that pass mypy --strict; those that protoc writes itself do not."""
    scripts = Path(sys.executable).parent
    return tuple(f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc"))


def _compile(*arguments: str) -> None:
    well_known_types = Path(grpc_tools.__file__).parent / "_proto"
    if protoc.main(["protoc", f"-I{well_known_types}", *arguments]) != 0:
        sys.exit("protoc failed")


def _renamed(descriptors: bytes) -> bytes:
    files = FileDescriptorSet.FromString(descriptors)
    for file in files.file:
        file.name = _moved(file.name)
        for position, dependency in enumerate(file.dependency):
            file.dependency[position] = _moved(dependency)
    return files.SerializeToString(deterministic=True)


def _moved(name: str) -> str:
    return PYTHON_FOLDER + name.removeprefix(WIRE_FOLDER) if name.startswith(WIRE_FOLDER) else name


if __name__ == "__main__":
    main(sys.argv)
