from __future__ import annotations

from pathlib import Path

import pytest

from buildkit_riscv64.machine import trust


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in trust._PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.crt"
    path.write_text("DEBIAN'S\n")
    return path


@pytest.fixture
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "ca-certificates"
    monkeypatch.setattr(trust, "CERTIFICATES", folder)
    return folder


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
        # Without a scheme, as many programs take it.
        ("127.0.0.1:3128", "http://10.0.2.2:3128"),
        ("proxy:3128", "proxy:3128"),
        # Whatever it means, it is not ours to judge.
        ("http://localhost:port", "http://10.0.2.2"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_proxy_on_the_loopback_is_reached_from_inside(
    monkeypatch: pytest.MonkeyPatch, here: str, inside: str
) -> None:
    monkeypatch.setenv("https_proxy", here)
    assert trust.proxies() == {"https_proxy": inside}


def test_proxies_in_capitals_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://big:1")
    monkeypatch.setenv("ALL_PROXY", "http://big:2")
    monkeypatch.setenv("all_proxy", "http://small:2")
    monkeypatch.setenv("https_proxy", "")
    assert trust.proxies() == {"http_proxy": "http://big:1", "all_proxy": "http://small:2"}


def test_what_needs_no_proxy_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1,.example.org")
    assert trust.proxies() == {"no_proxy": "localhost,127.0.0.1,.example.org"}


def test_both_reach_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Path, certificates: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (certificates / "deep").mkdir(parents=True)
    (certificates / "b.crt").write_text("B")  # without an end of line
    (certificates / "deep" / "a.crt").write_text("A\n")
    (certificates / "README").write_text("no certificate")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret@localhost:3128")
    root = tmp_path / "root"
    root.mkdir()
    trust.write(root, bundle)
    assert (root / "etc/ssl/certs/ca-certificates.crt").read_text() == "DEBIAN'S\nB\nA\n"
    kept = root / "usr/local/share/ca-certificates"
    assert {p.name: p.read_text() for p in kept.iterdir()} == {
        "host-0-b.crt": "B", "host-1-a.crt": "A\n",
    }  # fmt: skip
    assert (root / "etc/environment").read_text() == (
        'https_proxy="http://me:s3cret@10.0.2.2:3128"\n'
        'HTTPS_PROXY="http://me:s3cret@10.0.2.2:3128"\n'
    )
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "the machine gets the host's CA certificates: b.crt, a.crt\n"
        "the machine gets the host's proxy settings: https_proxy\n"
    )
    assert "s3cret" not in said.err


def test_a_host_without_either_says_nothing(
    tmp_path: Path, bundle: Path, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    trust.write(root, bundle)
    assert (root / "etc/ssl/certs/ca-certificates.crt").read_text() == "DEBIAN'S\n"
    assert (root / "etc/environment").read_text() == ""
    assert capsys.readouterr().err == ""
