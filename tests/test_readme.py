"""What the README shows works as written: its commands parse, its code compiles, its paths exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from sae_train.__main__ import make_parser as make_trainer_parser
from sae_train.config_file import load_config, parse_config
from steerd.__main__ import make_parser
from steerd.starters import STARTERS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MAKE_TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def blocks(language: str) -> list[str]:
    """All are matched whatever their language, lest the end of one be taken for the start of another."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [text for of, text in found if of == language]


def shell_lines() -> list[str]:
    return [line.split("  # ")[0].strip() for block in blocks("") for line in block.splitlines()]


def tree_paths() -> list[str]:
    """Paths of the file tree; an indented line lies in the last folder that was not."""
    (tree,) = (block for block in blocks("") if block.startswith("protos/"))
    paths, folder = [], ""
    for line in tree.splitlines():
        name = line.split()[0]
        folder = folder if line.startswith(" ") else name
        paths.append(folder + name if line.startswith(" ") else name)
    return paths


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 275


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("steerd ")])
def test_a_steerd_command_parses(line: str) -> None:
    make_parser().parse_args(shlex.split(line)[1:])


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("sae-train ")])
def test_a_trainer_command_parses(line: str) -> None:
    make_trainer_parser().parse_args(shlex.split(line)[1:])


@pytest.mark.parametrize("command", re.findall(r"`sae-train ([a-z-]+)`|`([a-z-]+)` \(", README))
def test_a_trainer_command_named_in_passing_exists(command: tuple[str, str]) -> None:
    (name,) = filter(None, command)

    with pytest.raises(SystemExit) as ended:
        make_trainer_parser().parse_args([name, "--help"])

    assert ended.value.code == 0


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("make ")])
def test_a_make_target_exists(line: str) -> None:
    assert line.split()[1] in MAKE_TARGETS


def test_the_python_example_imports_what_it_uses() -> None:
    (example,) = blocks("python")
    imports = [line for line in example.splitlines() if line.startswith("from ")]

    compile(example, "README.md", "exec")
    exec("\n".join(imports), {})


def test_the_training_example_is_a_valid_run() -> None:
    (example,) = blocks("toml")

    config = parse_config(tomllib.loads(example))

    assert f"> {config.data.sources[0].path}" in README


def test_the_starters_recipe_is_a_valid_run() -> None:
    config = load_config(ROOT / "steerd" / "starter_saes" / "train.toml")

    assert tuple(sae.name for sae in config.saes) == STARTERS


@pytest.mark.parametrize("path", tree_paths())
def test_a_path_of_the_tree_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)]+)\)", README))
def test_a_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("path", re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", README))
def test_a_file_of_the_requests_path_exists(path: str) -> None:
    assert (ROOT / "steerd" / path).exists()
