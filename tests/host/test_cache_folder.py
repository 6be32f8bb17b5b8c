from __future__ import annotations

import threading

import pytest

from steerd.host.cache_folder import build_once, cache_root


def write_number(folder):
    (folder / "number").write_text("1")


def test_a_folder_is_built_once(tmp_path):
    folder = build_once(tmp_path / "made" / "thing", write_number)
    (folder / "number").write_text("kept")

    again = build_once(folder, write_number)

    assert again == folder == tmp_path / "made" / "thing"
    assert (folder / "number").read_text() == "kept"


def test_a_build_that_fails_leaves_nothing_that_counts(tmp_path):
    def fail(folder):
        write_number(folder)
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        build_once(tmp_path / "thing", fail)

    assert not (tmp_path / "thing").exists()
    assert (build_once(tmp_path / "thing", write_number) / "number").read_text() == "1"


def test_what_a_killed_build_left_is_not_mixed_in(tmp_path):
    (tmp_path / ".thing.partial").mkdir()
    (tmp_path / ".thing.partial" / "half").write_text("")

    folder = build_once(tmp_path / "thing", write_number)

    assert [path.name for path in folder.iterdir()] == ["number"]


def test_of_two_that_come_together_one_builds_and_the_other_waits(tmp_path):
    builds = []
    building, second_is_here = threading.Event(), threading.Event()

    def build(folder):
        builds.append(folder)
        building.set()
        assert second_is_here.wait(timeout=30)
        write_number(folder)

    def second():
        assert building.wait(timeout=30)
        second_is_here.set()
        assert (build_once(tmp_path / "thing", build) / "number").read_text() == "1"
        finished.set()

    finished = threading.Event()
    other = threading.Thread(target=second)
    other.start()
    build_once(tmp_path / "thing", build)
    other.join(timeout=30)

    assert finished.is_set()
    assert len(builds) == 1


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "steerd"

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "steerd"
