"""A file is there whole or not at all."""

import pytest

from telucodec.errors import TelucodecError
from telucodec.files import check_writable, read_bytes, replacing


def test_the_name_appears_only_when_the_work_is_done(tmp_path):
    target = tmp_path / "new/deep/a.bin"
    with replacing(target) as temporary:
        temporary.write_bytes(b"whole")
        assert temporary.parent == target.parent  # on the same disk, so that renaming is atomic
        assert temporary.name.startswith(".")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]
    assert read_bytes(target) == b"whole"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, TelucodecError])
def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path, failure):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def fail_half_way():
        with replacing(target) as temporary:
            temporary.write_bytes(b"hal")
            raise failure

    with pytest.raises(failure):
        fail_half_way()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.bin", b"old")]


def test_a_name_as_long_as_the_disk_allows_can_be_written(tmp_path):
    target = tmp_path / ("a" * 255)
    with replacing(target) as temporary:
        temporary.write_bytes(b"whole")
    assert target.exists()


def test_a_place_that_cannot_be_written_is_an_error_of_the_user(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(TelucodecError, match=r"cannot write .*/file/a\.bin: "),
        replacing(tmp_path / "file/a.bin") as temporary,
    ):
        temporary.write_bytes(b"")


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(TelucodecError, match="is a folder; expected a file"):
        read_bytes(tmp_path)
    with pytest.raises(TelucodecError, match="does not exist"):
        read_bytes(tmp_path / "none")
    with pytest.raises(TelucodecError, match="is a folder; name a file"):
        check_writable(tmp_path, overwrite=True)
