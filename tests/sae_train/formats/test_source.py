"""Which files are read: those in the named folder, and in the cache of the hub its repository's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sae_train.formats.import_sae import import_sae
from sae_train.formats.layout import ImportOptions
from sae_train.formats.source import Source
from steerd.errors import SaeFileError
from steerd.sae.sae_file import load_sae
from tests.sae_train.formats.layout_files import dl_auto_encoder, goodfire, sparsify
from tests.sae_train.formats.saelens_files import saelens_standard


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path, name: str):
    path = saelens_standard(tmp_path / "source").path
    (path / name).rename(tmp_path / "outside")
    (path / name).symlink_to("../outside")

    with pytest.raises(SaeFileError, match=rf"{name}: is a link that leads out of the folder, to .*outside"):
        import_sae(path, tmp_path / "out", ImportOptions())


def test_a_folder_that_is_itself_a_link_is_followed(tmp_path: Path):
    (tmp_path / "link").symlink_to(saelens_standard(tmp_path / "source").path)

    import_sae(tmp_path / "link", tmp_path / "out", ImportOptions())

    assert load_sae(tmp_path / "out").sae.d_sae == 40


def test_a_snapshot_in_the_cache_of_the_hub_is_followed_to_its_blobs(tmp_path: Path):
    repository = tmp_path / "models--someone--saes"
    path = saelens_standard(repository / "snapshots" / "0123abcd").path
    (repository / "blobs").mkdir()
    for file in sorted(path.iterdir()):
        file.rename(repository / "blobs" / file.name)
        file.symlink_to(f"../../blobs/{file.name}")

    import_sae(path, tmp_path / "out", ImportOptions())
    assert load_sae(tmp_path / "out").sae.d_sae == 40

    (path / "cfg.json").unlink()
    (repository / "blobs" / "cfg.json").rename(tmp_path / "outside")
    (path / "cfg.json").symlink_to("../../../outside")
    with pytest.raises(SaeFileError, match=r"cfg\.json: is a link that leads out of the folder"):
        import_sae(path, tmp_path / "out", ImportOptions())


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("cfg.json", path)])
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, make: Callable[[Path], object]):
    """A pipe would be waited on for ever; the third case is a link to itself."""
    path = saelens_standard(tmp_path / "source").path
    (path / "cfg.json").unlink()
    make(path / "cfg.json")

    with pytest.raises(SaeFileError, match=r"cfg\.json: expected a regular file"):
        import_sae(path, tmp_path / "out", ImportOptions())


def test_a_folder_is_named_by_any_of_its_files(tmp_path: Path):
    weights = saelens_standard(tmp_path / "source").path / "sae_weights.safetensors"

    import_sae(weights, tmp_path / "out", ImportOptions())

    assert load_sae(tmp_path / "out").sae.d_sae == 40


def test_the_only_torch_file_of_a_folder_stands_for_it(tmp_path: Path):
    path = goodfire(tmp_path / "source").path
    assert Source(path).named_file == "Llama-3.1-8B-Instruct-SAE-l19.pth"

    (path / "another.pt").touch()
    assert Source(path).named_file is None


def test_a_file_that_is_missing_is_named(tmp_path: Path):
    path = dl_auto_encoder(tmp_path / "source").path

    with pytest.raises(SaeFileError, match=r"nothing\.json is missing; found \['ae\.pt', 'config\.json'\]"):
        Source(path).file("nothing.json")


def test_hashes_are_of_what_was_read(tmp_path: Path):
    source = Source(sparsify(tmp_path / "source").path)

    source.json("cfg.json")

    assert list(source.sha256()) == ["cfg.json"]


def test_the_run_of_a_sparsify_folder_only_describes(tmp_path: Path):
    path = sparsify(tmp_path / "source").path
    (tmp_path / "source" / "config.json").unlink()

    with pytest.raises(SaeFileError, match="no file says which model it was trained on; give --model NAME"):
        import_sae(path, tmp_path / "out", ImportOptions())
    import_sae(path, tmp_path / "out", ImportOptions(model="tiny/host"))

    assert load_sae(tmp_path / "out").metadata.model_name == "tiny/host"
