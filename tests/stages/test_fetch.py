"""Fetching weights: nothing under the final name unless every byte is right."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cellvision import fetch
from cellvision.core.errors import CellvisionError, ConfigError, UnsafeInput

CONTENT = bytes(range(256)) * 400
WANTED = fetch.Weights("https://example.org/w", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "none")


class Answer(io.BytesIO):
    """What a server sends."""

    def __init__(self, content: bytes, status: int = 200, url: str = WANTED.url) -> None:
        super().__init__(content)
        self.status, self.url, self.headers = status, url, {"Content-Length": str(len(content))}

    def geturl(self) -> str:
        return self.url


def server(content: bytes, log: list[str], ranges: bool = True, url: str = WANTED.url) -> Any:
    def opener(request: urllib.request.Request, timeout: float) -> Answer:
        wanted = request.get_header("Range")
        log.append(wanted or "all")
        if wanted and ranges:
            return Answer(content[int(wanted.removeprefix("bytes=").rstrip("-")) :], 206, url)
        return Answer(content, 200, url)

    return opener


def test_a_file_is_fetched_and_checked(tmp_path: Path) -> None:
    log: list[str] = []
    path = tmp_path / "models" / "w"
    fetch.download(WANTED, path, server(CONTENT, log))
    assert path.read_bytes() == CONTENT
    assert log == ["all"]
    assert [entry.name for entry in path.parent.iterdir()] == ["w"]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_fetch_goes_on(tmp_path: Path, ranges: bool) -> None:
    log: list[str] = []
    path = tmp_path / "w"
    with pytest.raises(CellvisionError, match="again"):
        fetch.download(WANTED, path, server(CONTENT[:1000], log))
    assert not path.exists()
    fetch.download(WANTED, path, server(CONTENT, log, ranges))
    assert path.read_bytes() == CONTENT
    assert log == ["all", "bytes=1000-"]


def test_another_content_is_refused_and_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "w"
    with pytest.raises(UnsafeInput, match="not the file"):
        fetch.download(WANTED, path, server(CONTENT[:-1] + b"x", []))
    assert list(tmp_path.iterdir()) == []


def test_a_redirect_to_http_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeInput, match="encryption"):
        fetch.download(WANTED, tmp_path / "w", server(CONTENT, [], url="http://example.org/w"))
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("no network"), TimeoutError("slow"), ConnectionResetError("gone"),
        urllib.error.HTTPError(WANTED.url, 404, "Not Found", None, None),  # type: ignore[arg-type]
        urllib.error.URLError(ssl.SSLCertVerificationError("certificate")),
    ],
)  # fmt: skip
def test_a_network_that_fails_is_one_line(tmp_path: Path, error: Exception) -> None:
    def opener(request: Any, timeout: float) -> Any:
        raise error

    before = ssl._create_default_https_context
    with pytest.raises(CellvisionError, match="could not be fetched"):
        fetch.download(WANTED, tmp_path / "w", opener)
    assert not (tmp_path / "w").exists()
    assert ssl._create_default_https_context is before


def test_a_sound_file_is_not_fetched_again_and_an_unknown_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fetch.OFFICIAL, "cpsam", WANTED)
    log: list[str] = []
    monkeypatch.setattr(urllib.request, "urlopen", server(CONTENT, log))
    cfg = fetch.Config(name="cpsam", folder=tmp_path)
    assert fetch.run(cfg) == tmp_path / "cpsam"
    assert fetch.run(cfg).read_bytes() == CONTENT
    assert log == ["all"]
    with pytest.raises(ConfigError, match="known: cpsam_v2"):
        fetch.run(fetch.Config(name="cyto3"))


@pytest.mark.parametrize("name", ["cpdino", "cpdino-vitb"])
def test_without_a_known_hash_nothing_is_fetched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log: list[str] = []
    monkeypatch.setattr(urllib.request, "urlopen", server(CONTENT, log))
    with pytest.raises(ConfigError, match=f"sha256 of {name} is not known .*blob/main/{name} shows, with --sha256"):
        fetch.run(fetch.Config(name=name, folder=tmp_path))
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        fetch.run(fetch.Config(name=name, folder=tmp_path, sha256="abc"))
    with pytest.raises(UnsafeInput, match="not the file"):
        fetch.run(fetch.Config(name=name, folder=tmp_path, sha256="0" * 64))
    assert list(tmp_path.iterdir()) == []
    right = fetch.Config(name=name, folder=tmp_path, sha256=str(WANTED.sha256).upper())
    for _ in range(2):
        assert fetch.run(right).read_bytes() == CONTENT
    assert log == ["all", "all"], "once for the wrong hash, once for the right one"
    assert "pip install git+https://github.com/facebookresearch/dinov3" in capsys.readouterr().err


def test_a_file_of_unknown_size_that_ends_early_is_fetched_again(tmp_path: Path) -> None:
    path, log = tmp_path / "w", list[str]()
    unknown = dataclasses.replace(WANTED, size=None)

    def broken(request: urllib.request.Request, timeout: float) -> Answer:
        answer = Answer(CONTENT[:1000])
        answer.headers["Content-Length"] = str(len(CONTENT))
        return answer

    with pytest.raises(CellvisionError, match="ended after 1000 of"):
        fetch.download(unknown, path, broken)
    fetch.download(unknown, path, server(CONTENT, log))
    assert path.read_bytes() == CONTENT
    assert log == ["all"]


def test_another_hash_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave --sha256 out"):
        fetch.run(fetch.Config(name="cpsam", folder=tmp_path, sha256="0" * 64))


def test_the_pinned_hashes_are_whole() -> None:
    for weights in fetch.OFFICIAL.values():
        assert weights.sha256 is None or len(bytes.fromhex(weights.sha256)) == 32
        assert weights.url.startswith("https://")
