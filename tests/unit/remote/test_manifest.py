from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest

from servable._server.remote.manifest import (
    Checksum,
    Manifest,
    RemoteFile,
    check_path,
    describe,
    without_markers,
)
from servable.errors import LoadError

MD5 = hashlib.md5(b"graph").hexdigest()
MD5_BASE64 = base64.b64encode(bytes.fromhex(MD5)).decode()
SHA256 = hashlib.sha256(b"graph").hexdigest()
GIT_SHA1 = hashlib.sha1(b"blob 5\0graph").hexdigest()


@pytest.mark.parametrize(
    ("scheme", "info", "checksum", "revision"),
    [
        ("s3", {"ETag": f'"{MD5}"'}, Checksum("md5", MD5), f'"{MD5}"'),
        ("s3", {"ETag": f'"{MD5}-7"'}, None, f'"{MD5}-7"'),
        ("gs", {"md5Hash": MD5_BASE64, "generation": "7"}, Checksum("md5", MD5), "7"),
        ("gs", {"generation": "7"}, None, "7"),
        (
            "abfs",
            {"content_settings": {"content_md5": bytearray(bytes.fromhex(MD5))}, "etag": "e"},
            Checksum("md5", MD5),
            "e",
        ),
        ("az", {"content_settings": {"content_md5": None}, "etag": "e"}, None, "e"),
        ("hf", {"blob_id": "b", "lfs": {"sha256": SHA256}}, Checksum("sha256", SHA256), "b"),
        ("hf", {"blob_id": GIT_SHA1, "lfs": None}, Checksum("git-sha1", GIT_SHA1), GIT_SHA1),
        ("https", {"Content-MD5": MD5_BASE64, "ETag": "e"}, Checksum("md5", MD5), "e"),
        ("https", {"Content-MD5": "not base64!", "ETag": "e"}, None, "e"),
        ("http", {"Last-Modified": "yesterday"}, None, "yesterday"),
        ("memory", {"ETag": f'"{MD5}"'}, None, f'"{MD5}"'),
    ],
)
def test_checksums_are_read_as_each_store_spells_them(
    scheme: str, info: dict[str, Any], checksum: Checksum | None, revision: str
) -> None:
    file = describe(scheme, "a/b", {"name": "x/a/b", "size": 5, **info}, True)

    assert file == RemoteFile("a/b", "x/a/b", 5, revision, checksum)


def test_etags_of_directory_buckets_are_no_checksums() -> None:
    assert describe("s3", "a", {"name": "a", "size": 5, "ETag": MD5}, False).checksum is None


@pytest.mark.parametrize("algorithm", ["md5", "sha256", "git-sha1"])
def test_checksums_fit_only_their_content(tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / "file"
    checksum = Checksum(algorithm, {"md5": MD5, "sha256": SHA256, "git-sha1": GIT_SHA1}[algorithm])
    path.write_bytes(b"graph")
    assert checksum.fits(path)
    path.write_bytes(b"grapf")
    assert not checksum.fits(path)


class TestDigest:
    def digest(self, url: str, *files: RemoteFile) -> str:
        return Manifest(url, files).digest

    def test_is_that_of_the_content_where_checksums_are_known(self) -> None:
        here = RemoteFile("a", "here/a", 5, "e1", Checksum("md5", MD5))
        there = RemoteFile("a", "there/a", 5, "e2", Checksum("md5", MD5))
        assert self.digest("here", here) == self.digest("there", there)

    def test_is_bound_to_the_url_where_only_sizes_are_known(self) -> None:
        file = RemoteFile("a", "a", 5)
        assert self.digest("here", file) != self.digest("there", file)
        assert self.digest("here", file) == self.digest("here", file)

    @pytest.mark.parametrize(
        "other",
        [
            RemoteFile("b", "a", 5, "e"),
            RemoteFile("a", "a", 6, "e"),
            RemoteFile("a", "a", 5, "f"),
        ],
    )
    def test_changes_with_path_size_and_revision(self, other: RemoteFile) -> None:
        assert self.digest("u", RemoteFile("a", "a", 5, "e")) != self.digest("u", other)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "a\0b"])
def test_names_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(LoadError, match="not fetched"):
        check_path(path, "s3://b/m/1")


def test_ordinary_names_are_accepted() -> None:
    check_path("variables/variables.data-00000-of-00001", "s3://b/m/1")
    check_path("assets/..hidden..", "s3://b/m/1")


def test_objects_in_place_of_directories_are_no_files() -> None:
    def file(location: str) -> RemoteFile:
        return RemoteFile(location.rstrip("/"), location, 0)

    found = without_markers(
        map(file, ["a/b/c", "a/", "a/b", "empty/", "saved_model.pb", "a.txt", "a/b/c.index", "e"])
    )
    assert [f.path for f in found] == ["a.txt", "a/b/c", "a/b/c.index", "e", "saved_model.pb"]
