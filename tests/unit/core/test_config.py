from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import config
from buildkit_riscv64.core.errors import UsageError


def settings(root: Path | None = None) -> config.Settings:
    """The settings of a checkout, read as Invoke reads them."""
    loaded = config.Config(
        defaults={**config.Config.global_defaults(), **config.DEFAULTS},
        project_location=root,
    )
    loaded.load_project()
    loaded.load_shell_env()
    return config.read(loaded)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a configuration file, and read the settings."""
    monkeypatch.chdir(tmp_path)

    def read(text: str | bytes, name: str = "invoke.yaml") -> config.Settings:
        content = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(content)
        return settings(tmp_path)

    return read


def test_defaults() -> None:
    found = settings()
    assert (found.yes, found.bundle) == (False, False)
    assert (found.source, found.goriscv64, found.via) == ("auto", "", "go")
    assert (found.engine, found.base, found.registry) == ("buildkit", "auto", "")
    assert found.boards == {}


def test_precedence(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVOKE_BINARIES_SOURCE", "submodule")
    monkeypatch.setenv("INVOKE_BOARDS_F3", "me@other")
    found = write(
        "binaries: {source: module, via: make}\nimage: {registry: host/me}\nboards: {f3: me@f3}\n"
    )
    assert (found.source, found.via, found.registry) == ("submodule", "make", "host/me")
    assert found.boards == {"f3": "me@other"}


@pytest.mark.parametrize("text", ["yes: true", "on: {}", "boards: {no: me@x, 1: me@y, 0x10: z}"])
def test_keys_are_texts(write: Any, text: str) -> None:
    """In YAML 1.1, yes, no and on are booleans, and 1 is a number."""
    if text.startswith("on"):
        with pytest.raises(UsageError, match=r"\bon\b"):
            write(text)
    elif text.startswith("yes"):
        assert write(text).yes is True
    else:
        assert write(text).boards == {"no": "me@x", "1": "me@y", "0x10": "z"}


NO = ["false", "False", "no", "off", "OFF", "0", " no "]
YES = ["true", "yes", "on", "1", "TRUE"]


@pytest.mark.parametrize(("word", "expected"), [(w, False) for w in [*NO, ""]] + [(w, True) for w in YES])  # fmt: skip
@pytest.mark.parametrize("variable", ["INVOKE_YES", "INVOKE_BINARIES_BUNDLE"])
def test_a_boolean_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, word: str, expected: bool
) -> None:
    monkeypatch.setenv(variable, word)
    found = settings()
    attribute = {"INVOKE_YES": "yes"}.get(variable, "bundle")
    assert getattr(found, attribute) is expected


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize(("word", "expected"), [(w, False) for w in NO] + [(w, True) for w in YES])
def test_a_boolean_in_the_file(write: Any, word: str, expected: bool, quoted: bool) -> None:
    text = f'"{word}"' if quoted else word
    assert write(f"yes: {text}\nbinaries: {{bundle: {text}}}\n").bundle is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("boards:", "boards"),
        ("binaries:", "binaries"),
        ("binaries: module", "binaries"),
        ("binaries: [module]", "binaries"),
        ("plain text", "plain text"),
        ("- a\n- b", "invoke.yaml"),
        ("5", "invoke.yaml"),
        ("yes:", "yes"),
        ("yes: maybe", "yes"),
        ("yes: 2", "yes"),
        ("yes: [true]", "yes"),
        ("binaries: {source: 5}", "binaries.source"),
        ("binaries: {source: null}", "binaries.source"),
        ("binaries: {source: [module]}", "binaries.source"),
        ('binaries: {source: "a\\0b"}', "binaries.source"),
        ('binaries: {source: "\\ud800"}', "binaries.source"),
        ("image: {registry: 5000}", "image.registry"),
        ("image: {base: true}", "image.base"),
        ("boards: {f3: 5}", "boards.f3"),
        ("boards: {f3: }", "boards.f3"),
        ("boards: {f3: -oProxyCommand=x}", "boards.f3"),
        ("boards: [f3]", "boards"),
        ("run: {dry: perhaps}", "run.dry"),
        ("yes: true\nyes: false", "'yes'"),
        ("binaries: {source: a, source: b}", "'source'"),
        ("binaries: {", "line 1"),
        ("a: b: c", "line 1"),
        ("\tyes: true", "line 1"),
        ("yes: !!bool x", "invoke.yaml"),
        ("yes: !!timestamp x", "invoke.yaml"),
        ("yes: !python/object:os.system x", "invoke.yaml"),
        ("? [a, b]\n: c", "invoke.yaml"),
        ("&a {boards: *a}", "boards"),
        ("--- {}\n--- {}", "invoke.yaml"),
        ("yes: 0x" + "f" * 9999, "yes"),
        (b"\xff\xfe\x00", "invoke.yaml"),
        (b"yes: \xe9", "invoke.yaml"),
        ("[" * 20_000, "invoke.yaml"),
        ("{a: " * 20_000, "invoke.yaml"),
        ("a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(9)), "a"),
    ],
)
def test_invalid_files(write: Any, text: str | bytes, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        write(text)
    assert "invoke.yaml" in caught.value.brief
    assert expected in caught.value.brief
    assert len(caught.value.brief) < 200


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("binarys: {source: module}", "binaries"),
        ("image: {enginee: docker}", "image.engine"),
        ("enginee: docker", "image.engine"),
        ("source: module", "binaries.source"),
        ("image: {source: module}", "binaries.source"),
        ("board: {f3: x}", "boards"),
        ("run: {dri: true}", "run.dry"),
        ("run: {echo: true}", "run.dry"),
        ("something: else", "binaries.source"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(write: Any, text: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        write(text)
    assert meant in caught.value.hint


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("INVOKE_BINARY_SOURCE", "INVOKE_BINARIES_SOURCE"),
        ("INVOKE_BUNDLE", "unset INVOKE_BUNDLE"),
        ("INVOKE_IMAGE_ENGINEE", "INVOKE_IMAGE_ENGINE"),
        ("INVOKE_", "unset INVOKE_"),
        ("INVOKE_YESS", "INVOKE_YES"),
    ],
)
def test_unknown_variable(monkeypatch: pytest.MonkeyPatch, variable: str, meant: str) -> None:
    monkeypatch.setenv(variable, "x")
    with pytest.raises(UsageError) as caught:
        settings()
    assert variable in caught.value.brief
    assert meant in caught.value.hint


@pytest.mark.parametrize("variable", ["INVOKE_DEBUG", "INVOKE_RUN_ECHO", "INVOKE_TASKS_DEDUPE"])
def test_variables_of_invoke_are_ignored(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    assert settings() == settings()


def test_the_users_file_may_have_other_sections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path.home() / ".invoke.yaml"
    home.write_text("theirs: [anything]\nrun: null\ntasks: {executor_class: no.such}\nyes: on\n")
    assert settings(tmp_path).yes is True
    home.write_text("image: {enginee: docker}\n")
    with pytest.raises(UsageError, match=r"\.invoke\.yaml"):
        settings(tmp_path)


@pytest.mark.parametrize("name", ["invoke.yml", "invoke.json"])
def test_other_file_names(write: Any, name: str) -> None:
    assert write('{"binaries": {"source": "module"}}', name).source == "module"
    with pytest.raises(UsageError, match=name):
        write('{"binaries": {"source": 5}}', name)


@pytest.mark.parametrize("text", ["import nothing_like_that", "yes = [", "yes = 'perhaps'"])
def test_invalid_python_file(write: Any, text: str) -> None:
    with pytest.raises(UsageError, match=r"invoke\.py"):
        write(text, "invoke.py")


def test_a_directory_instead_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "invoke.yaml").mkdir()
    with pytest.raises(UsageError, match=r"invoke\.yaml.*Is a directory"):
        settings(tmp_path)


@pytest.mark.parametrize("name", ["nothing.yaml", "README.md", ""])
def test_a_missing_file_of_config(tmp_path: Path, name: str) -> None:
    loaded = config.Config()
    loaded.set_runtime_path(tmp_path / name)
    with pytest.raises(UsageError):
        loaded.load_runtime()
