from __future__ import annotations

from pathlib import Path

import pytest

from buildkit_riscv64.machine import host_settings


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in host_settings.PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.crt"
    path.write_text("DEBIAN'S\n")
    return path


@pytest.fixture
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "ca-certificates"
    monkeypatch.setattr(host_settings, "CERTIFICATES", directory)
    return directory


@pytest.mark.parametrize(
    ("here", "inside"),
    [
        ("http://proxy.example.org:3128", "http://proxy.example.org:3128"),
        ("http://127.0.0.1:3128", "http://10.0.2.2:3128"),
        ("http://localhost:3128/", "http://10.0.2.2:3128/"),
        ("http://LOCALHOST", "http://10.0.2.2"),
        ("socks5h://[::1]:1080", "socks5h://10.0.2.2:1080"),
        ("http://[::1]", "http://10.0.2.2"),
        ("http://me:s3cret@127.0.0.1:3128", "http://me:s3cret@10.0.2.2:3128"),
        ("http://me:localhost@proxy:3128", "http://me:localhost@proxy:3128"),
        # Without a scheme.
        ("127.0.0.1:3128", "http://10.0.2.2:3128"),
        ("proxy:3128", "proxy:3128"),
        # Invalid values are passed on.
        ("http://localhost:port", "http://10.0.2.2"),
        ("nonsense", "nonsense"),
    ],
)
def test_loopback_proxy_gets_the_host_address(
    monkeypatch: pytest.MonkeyPatch, here: str, inside: str
) -> None:
    monkeypatch.setenv("https_proxy", here)
    assert host_settings.proxies() == {"https_proxy": inside}


def test_proxies_in_upper_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://big:1")
    monkeypatch.setenv("ALL_PROXY", "http://big:2")
    monkeypatch.setenv("all_proxy", "http://small:2")
    monkeypatch.setenv("https_proxy", "")
    assert host_settings.proxies() == {"http_proxy": "http://big:1", "all_proxy": "http://small:2"}


def test_no_proxy_is_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1,.example.org")
    assert host_settings.proxies() == {"no_proxy": "localhost,127.0.0.1,.example.org"}


def test_write_certificates_and_proxies(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    bundle: Path,
    certificates: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (certificates / "deep").mkdir(parents=True)
    (certificates / "b.crt").write_text("B")  # without an end of line
    (certificates / "deep" / "a.crt").write_text("A\n")
    (certificates / "README").write_text("no certificate")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret@localhost:3128")
    root = tmp_path / "root"
    root.mkdir()
    host_settings.write(root, bundle)
    assert (root / "etc/ssl/certs/ca-certificates.crt").read_text() == "DEBIAN'S\nB\nA\n"
    directory = root / "usr/local/share/ca-certificates"
    assert {p.name: p.read_text() for p in directory.iterdir()} == {
        "host-0-b.crt": "B", "host-1-a.crt": "A\n",
    }  # fmt: skip
    assert (root / "etc/environment").read_text() == (
        'https_proxy="http://me:s3cret@10.0.2.2:3128"\n'
        'HTTPS_PROXY="http://me:s3cret@10.0.2.2:3128"\n'
    )
    captured = capsys.readouterr()
    assert captured.out == ""
    for names in ("b.crt, a.crt\n", ": https_proxy\n"):
        assert names in captured.err
    assert "s3cret" not in captured.err


def test_write_without_either_logs_nothing(
    tmp_path: Path, bundle: Path, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    host_settings.write(root, bundle)
    assert (root / "etc/ssl/certs/ca-certificates.crt").read_text() == "DEBIAN'S\n"
    assert (root / "etc/environment").read_text() == ""
    assert capsys.readouterr().err == ""
