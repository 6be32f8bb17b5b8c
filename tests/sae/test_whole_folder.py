from __future__ import annotations

from pathlib import Path

import pytest

from steerd.errors import SaeFileError
from steerd.sae.sae_file import load_sae, save_sae
from steerd.sae.whole_folder import write_whole_folder
from tests.tiny_saes import bundle_of, random_sae


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_parents_are_made(tmp_path: Path):
    write_whole_folder(tmp_path / "a" / "b", {"one": b"1"})

    assert (tmp_path / "a" / "b" / "one").read_bytes() == b"1"


def test_the_folders_files_are_readable_as_any_new_file(tmp_path: Path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").write_bytes(b"")

    write_whole_folder(tmp_path / "new", {"one": b"1"})

    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "new" / "one").stat().st_mode == (tmp_path / "plain" / "file").stat().st_mode


def test_named_files_are_replaced_and_others_kept(tmp_path: Path):
    write_whole_folder(tmp_path / "sae", {"one": b"1", "two": b"2"})
    (tmp_path / "sae" / "train.toml").write_text("kept")

    write_whole_folder(tmp_path / "sae", {"one": b"new", "two": None})

    assert names(tmp_path / "sae") == ["one", "train.toml"]
    assert (tmp_path / "sae" / "one").read_bytes() == b"new"
    assert (tmp_path / "sae" / "train.toml").read_text() == "kept"
    assert names(tmp_path) == ["sae"]


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    write_whole_folder(tmp_path / "link", {"one": b"1"})

    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == ["one"]


def test_folders_of_something_else_are_left_alone(tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")

    with pytest.raises(SaeFileError, match=r"expected an SAE's folder or an empty one, found thesis\.tex"):
        write_whole_folder(home, {"one": b"1"})

    (home / "one").write_bytes(b"0")
    (home / "photos").mkdir()
    with pytest.raises(SaeFileError, match="holds a folder, photos"):
        write_whole_folder(home, {"one": b"1"})

    (tmp_path / "file").write_text("")
    with pytest.raises(SaeFileError, match="found a file"):
        write_whole_folder(tmp_path / "file", {"one": b"1"})

    assert names(home) == ["one", "photos", "thesis.tex"]
    assert names(tmp_path) == ["file", "home"]


def test_a_write_that_fails_half_way_leaves_the_old_folder(tmp_path: Path):
    """The second name cannot be a file's, so the disk refuses it after the first file is written."""
    write_whole_folder(tmp_path / "sae", {"one": b"1"})

    with pytest.raises(OSError, match="too long"):
        write_whole_folder(tmp_path / "sae", {"one": b"new", "x" * 300: b"2"})

    assert (tmp_path / "sae" / "one").read_bytes() == b"1"
    assert names(tmp_path) == ["sae"]


def test_an_sae_that_cannot_be_written_is_an_sae_file_error(tmp_path: Path):
    with pytest.raises(SaeFileError, match="cannot be written"):
        save_sae(tmp_path / ("x" * 300), bundle_of(random_sae()))

    assert names(tmp_path) == []


def test_a_file_beside_the_sae_survives_the_next_save(tmp_path: Path):
    save_sae(tmp_path / "sae", bundle_of(random_sae(seed=1)))
    (tmp_path / "sae" / "train.toml").write_text("seed = 1")

    save_sae(tmp_path / "sae", bundle_of(random_sae(seed=2)))

    assert (tmp_path / "sae" / "train.toml").read_text() == "seed = 1"
    assert load_sae(tmp_path / "sae").sae.d_sae == 64
