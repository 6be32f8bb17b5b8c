"""The files around the code agree with each other: project file, pinned versions, image."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from steerd.config_file import load_config
from tests.test_architecture import imported_modules

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TESTED_EXTRAS = ("datasets", "otel")
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def installed_requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    taken_in = {f"steerd[{extra}]" for extra in TESTED_EXTRAS}
    assert taken_in <= set(extras["dev"])
    texts = [
        *PROJECT["dependencies"],
        *extras["dev"],
        *(text for name in TESTED_EXTRAS for text in extras[name]),
    ]
    return [Requirement(text) for text in texts if text not in taken_in]


def stages() -> list[list[str]]:
    """The Dockerfile's instructions by stage, continued lines joined."""
    lines = re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines()
    found: list[list[str]] = []
    for line in (line for line in lines if line and not line.startswith("#")):
        if line.startswith("FROM "):
            found.append([])
        found[-1].append(line)
    return found


@pytest.mark.parametrize("requirement", installed_requirements(), ids=str)
def test_every_requirement_is_pinned_to_a_version_it_allows(requirement: Requirement) -> None:
    version = constraints()[canonicalize_name(requirement.name)]

    assert requirement.specifier.contains(version), f"{version} is pinned, {requirement} is required"


def test_every_imported_package_is_required() -> None:
    texts = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["otel"]]
    required = {canonicalize_name(Requirement(text).name) for text in texts}
    files = [path for product in ("steerd", "sae_train") for path in (ROOT / product).rglob("*.py")]
    imported = {
        name.split(".")[0] for path in files for name in imported_modules(ast.parse(path.read_text()))
    }
    # _typeshed exists for the type checker alone.
    others = imported - sys.stdlib_module_names - {"steerd", "sae_train", "google", "_typeshed"}

    for name in others:
        distributions = {canonicalize_name(each) for each in packages_distributions()[name]}
        assert distributions & required, f"{name} is imported, {distributions} is not required"


def test_grpc_is_of_one_release() -> None:
    versions = {version for name, version in constraints().items() if name.startswith("grpcio")}

    assert len(versions) == 1


def test_what_the_image_copies_exists_and_is_in_the_build_context() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copies = [line.split()[1:-1] for stage in stages() for line in stage if line.startswith("COPY ")]
    sources = [source for words in copies if not words[0].startswith("--from") for source in words]

    assert "steerd" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == name or source.startswith(name + "/") for name in allowed), source


def test_the_final_image_runs_as_a_fixed_user_and_installs_nothing() -> None:
    *_, final = stages()

    assert "USER 10001:10001" in final
    assert any(line.startswith("HEALTHCHECK ") for line in final)
    assert not any(re.search(r"pip|apt-get|gcc", line) for line in final)


def test_the_image_can_be_reached_from_outside() -> None:
    config = load_config(ROOT / "deploy/docker/steerd.toml")

    exposed = {int(port) for port in re.findall(r"EXPOSE (\d+) (\d+)", DOCKERFILE)[0]}
    assert {config.server.port, config.monitoring.port} == exposed
    assert config.server.host == config.monitoring.host == "0.0.0.0"
