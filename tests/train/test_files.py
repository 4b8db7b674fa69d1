import builtins
import contextlib
import errno
import os

import ml_dtypes
import numpy as np
import pytest

from saccade import files
from saccade.errors import SaccadeError

TENSORS = {
    "w": np.arange(15, dtype="float32").reshape(3, 5)[:, ::2],
    "half": np.array([1.5, -2.25], ml_dtypes.bfloat16),
    "step": np.int32(7),
    "flags": np.array([True, False]),
}


def test_tensors_survive(tmp_path):
    path = tmp_path / "deep" / "a.safetensors"
    digest = files.save_tensors(path, TENSORS, {"note": "x"})
    loaded = files.load_tensors(path, digest)
    assert loaded.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert loaded[name].dtype == value.dtype
        assert loaded[name].shape == value.shape
        np.testing.assert_array_equal(loaded[name], value)


def test_a_flipped_byte_names_both_hashes(tmp_path):
    path = tmp_path / "a.safetensors"
    digest = files.save_tensors(path, TENSORS)
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)
    with pytest.raises(SaccadeError, match=rf"sha256 starts with [0-9a-f]{{8}}, expected {digest[:8]}"):
        files.load_tensors(path, digest)


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(SaccadeError, match="does not exist"):
        files.load_tensors(path)
    with pytest.raises(SaccadeError, match="is a folder"):
        files.load_tensors(tmp_path)
    files.save_tensors(path, TENSORS)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(SaccadeError, match="not a complete safetensors file"):
        files.load_tensors(path)
    path.write_bytes(b"junk")
    with pytest.raises(SaccadeError, match="not a complete safetensors file"):
        files.load_tensors(path)


class FullDisk:
    """A file that takes a few bytes and then has no space."""

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        self.file.write(data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def full_disk(monkeypatch):
    """From the moment it is called, files opened for writing run out of space."""
    real = builtins.open

    def opened(path, mode="r", *args, **options):
        file = real(path, mode, *args, **options)
        return FullDisk(file) if "w" in mode else file

    return lambda: monkeypatch.setattr(builtins, "open", opened)


def test_a_full_disk_keeps_the_old_file_and_leaves_no_junk(tmp_path, full_disk):
    path = tmp_path / "a.safetensors"
    digest = files.save_tensors(path, TENSORS)
    full_disk()
    with pytest.raises(SaccadeError, match="no space left to write"):
        files.save_tensors(path, {"w": np.zeros(3)})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]
    assert files.load_tensors(path, digest).keys() == TENSORS.keys()


def test_a_full_disk_keeps_old_checkpoints(tmp_path, full_disk):
    from saccade.train import checkpoint

    checkpoint.save(tmp_path, 3, TENSORS, {}, keep=2)
    full_disk()
    with pytest.raises(SaccadeError, match="no space left to write"):
        checkpoint.save(tmp_path, 6, TENSORS, {}, keep=2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_00000003"]
    tensors, facts = checkpoint.load(tmp_path / "step_00000003")
    assert facts["step"] == 3
    np.testing.assert_array_equal(tensors["w"], TENSORS["w"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_one_may_not_write_to(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SaccadeError, match="not allowed to write"):
        files.save_tensors(tmp_path / "a.safetensors", TENSORS)


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(SaccadeError, match="could not write"), files.atomic_directory(tmp_path / "a" / "b"):
        pytest.fail("the folder cannot exist")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with files.atomic_directory(target) as folder:
        (folder / "x").write_text("1")
        assert not target.exists()
    with contextlib.suppress(RuntimeError), files.atomic_directory(target) as folder:
        (folder / "x").write_text("2")
        raise RuntimeError("stop")
    assert (target / "x").read_text() == "1"
    (target / "old").write_text("3")
    with files.atomic_directory(target) as folder:
        (folder / "x").write_text("4")
        (folder / "y").write_text("4")
    assert sorted(entry.name for entry in target.iterdir()) == ["x", "y"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_what_is_something_else_is_kept(tmp_path):
    (tmp_path / "photo.png").write_text("a photo")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("a photo")
    (tmp_path / "empty").mkdir()
    for name, said in (("photo.png", "photo.png is a file"), ("photos", r"other things \(such as a.png\)")):
        with pytest.raises(SaccadeError, match=said), files.atomic_directory(tmp_path / name) as folder:
            (folder / "config.json").write_text("{}")
    with files.atomic_directory(tmp_path / "empty") as folder:
        (folder / "config.json").write_text("{}")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")) == [
        "empty/config.json", "photo.png", "photos/a.png"
    ]  # fmt: skip


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / ".step_00000002.abc.partial").mkdir()
    (tmp_path / "step_00000001").mkdir()
    assert [path.name for path in files.remove_partial(tmp_path)] == [".step_00000002.abc.partial"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_00000001"]
