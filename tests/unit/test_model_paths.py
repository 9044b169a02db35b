"""The models in the paths of a command line."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from servable._server import model_paths
from servable._server.config.models import ModelConfig
from servable._server.model_paths import FoundModels, find_models, is_model_path, version_of
from servable.errors import Code, ConfigError, NotFoundError
from servable.platforms import Platform, PlatformContext, find_platforms
from servable.sources._version_policy import Latest, Specific
from support.fake_platform import FakePlatform


class NotesPlatform(FakePlatform):
    """Recognises `*.notes`, also as single files."""

    contents = "notes are *.notes"
    serves_files = True

    def recognises(self, files: Collection[str]) -> bool:
        return any(file.endswith(".notes") for file in files)


class TextPlatform(FakePlatform):
    """Recognises `model.txt`."""

    contents = "a text is model.txt"

    def recognises(self, files: Collection[str]) -> bool:
        return "model.txt" in files


@pytest.fixture(scope="module")
def platforms() -> Mapping[str, Platform]:
    """The kinds of the server without native ones, and two more."""
    names = ("tensorflow", "python", "hash_map")
    found = find_platforms(PlatformContext())
    more = [NotesPlatform("notes"), TextPlatform("text")]
    return {name: found[name] for name in names} | {each.name: each for each in more}


def make(root: Path, *files: str) -> None:
    """Make empty files; a path that ends with a slash is a directory, and one with an arrow a link."""
    for file in files:
        path = root / file
        name, is_link, target = file.partition(" -> ")
        if is_link:
            (root / name).symlink_to(target)
        elif file.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


# The files, the path, and the models: name, base path, kind, versions.
CASES: Mapping[str, tuple[list[str], str, list[tuple[str, str, str, tuple[int, ...]]]]] = {
    "a base path": (
        ["iris/1/saved_model.pb", "iris/12/saved_model.pb", "iris/README.md"],
        "iris",
        [("iris", "iris", "tensorflow", ())],
    ),
    "the highest version decides": (
        ["iris/2/model.py", "iris/10/saved_model.pb"],
        "iris",
        [("iris", "iris", "tensorflow", ())],
    ),
    "a higher version is still being written": (
        ["iris/1/model.py", "iris/2/"],
        "iris",
        [("iris", "iris", "python", ())],
    ),
    "numbered directories come before files": (
        ["iris/1/model.py", "iris/table.tsv"],
        "iris",
        [("iris", "iris", "python", ())],
    ),
    "a numbered version": (
        ["iris/1/model.py", "iris/007/model.py"],
        "iris/007",
        [("iris", "iris", "python", (7,))],
    ),
    "a version without a number": (
        ["table/table.tsv"],
        "table",
        [("table", "table", "hash_map", ())],
    ),
    "a version with directories": (
        ["iris/saved_model.pb", "iris/variables/variables.index", "iris/assets/model.py"],
        "iris",
        [("iris", "iris", "tensorflow", ())],
    ),
    "a trailing slash": (["table/table.tsv"], "table/", [("table", "table", "hash_map", ())]),
    "a file that needs its directory": (
        ["words/model.py", "words/vocabulary.py"],
        "words/model.py",
        [("words", "words", "python", ())],
    ),
    "such a file in a numbered version": (
        ["iris/1/saved_model.pb", "iris/2/saved_model.pb"],
        "iris/1/saved_model.pb",
        [("iris", "iris", "tensorflow", (1,))],
    ),
    "a file with a name of its own": (
        ["all/iris.notes", "all/wine.notes", "all/2/model.py"],
        "all/iris.notes",
        [("iris", "all/iris.notes", "notes", ())],
    ),
    "a file that is named by its directory": (
        ["iris/model.notes", "iris/servable.json"],
        "iris/model.notes",
        [("iris", "iris", "notes", ())],
    ),
    "such a file beside another": (
        ["iris.v2/model.notes", "iris.v2/other.notes"],
        "iris.v2/model.notes",
        [("iris.v2", "iris.v2", "notes", ())],
    ),
    "such a file beside one of its kind": (
        ["iris.v2/model.notes", "iris.v2/model.notes.notes", "iris.v2/saved_model.notes"],
        "iris.v2/model.notes",
        [("iris.v2", "iris.v2/model.notes", "notes", ())],
    ),
    "such a file in a base path": (
        ["iris/model.notes", "iris/1/model.notes"],
        "iris/model.notes",
        [("iris", "iris/model.notes", "notes", ())],
    ),
    "a file in a numbered version": (
        ["iris/3/forest.notes"],
        "iris/3/forest.notes",
        [("iris", "iris", "notes", (3,))],
    ),
    "a file decides between kinds": (
        ["iris/model.notes", "iris/model.txt"],
        "iris/model.notes",
        [("iris", "iris", "notes", ())],
    ),
    "a kind that uses files of others": (
        ["iris/model.py", "iris/weights.notes"],
        "iris",
        [("iris", "iris", "python", ())],
    ),
    "a directory of models": (
        [
            "all/b/1/saved_model.pb",
            "all/a/model.py",
            "all/c.notes",
            "all/README.md",
            "all/.git/model.py",
            "all/__pycache__/model.py",
        ],
        "all",
        [
            ("a", "all/a", "python", ()),
            ("b", "all/b", "tensorflow", ()),
            ("c", "all/c.notes", "notes", ()),
        ],
    ),
    "a directory of files": (
        ["all/a.notes", "all/b.notes"],
        "all",
        [("a", "all/a.notes", "notes", ()), ("b", "all/b.notes", "notes", ())],
    ),
    "a version with several files": (
        ["all/model.notes", "all/b.notes"],
        "all",
        [("all", "all", "notes", ())],
    ),
    "a version of code with several files": (
        ["m/model.py", "m/a.notes", "m/b.notes"],
        "m",
        [("m", "m", "python", ())],
    ),
    "a name that would be escaped": (
        ["Größe (neu).notes"],
        "Größe (neu).notes",
        [("Gr_e_neu_", "Größe (neu).notes", "notes", ())],
    ),
}


@pytest.mark.parametrize(("files", "path", "models"), CASES.values(), ids=CASES.keys())
def test_models_are_found(
    files: list[str],
    path: str,
    models: list[tuple[str, str, str, tuple[int, ...]]],
    platforms: Mapping[str, Platform],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make(tmp_path, *files)
    wanted = FoundModels(
        tuple(
            ModelConfig(name, str(tmp_path / base_path), platform, policy_of(versions))
            for name, base_path, platform, versions in models
        )
    )
    assert find_models([str(tmp_path / path)], platforms) == wanted
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for relative in (path, f"./{path}", f"~/{path}", f"file://{tmp_path}/{path}"):
        assert find_models([relative], platforms) == wanted
    assert is_model_path(path, platforms)


def policy_of(versions: tuple[int, ...]) -> Latest | Specific:
    return Specific(versions) if versions else Latest()


def test_the_working_directory_has_a_name(
    platforms: Mapping[str, Platform], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "iris/model.py")
    monkeypatch.chdir(tmp_path / "iris")
    for path in (".", "model.py", "../iris"):
        ((model,), _) = unpacked(find_models([path], platforms))
        assert (model.name, model.base_path) == ("iris", str(tmp_path / "iris"))


def unpacked(found: FoundModels) -> tuple[tuple[ModelConfig, ...], tuple[str, ...]]:
    return found.models, found.left_out


def test_paths_add_up(platforms: Mapping[str, Platform], tmp_path: Path) -> None:
    make(tmp_path, "a/1/model.py", "a/2/model.py", "a/3/model.py", "b/model.py")
    paths = [str(tmp_path / path) for path in ("a/3", "b", "b", "a/1", "b/model.py")]
    a, b = find_models(paths, platforms).models
    assert (a.name, a.base_path, a.version_policy) == ("a", str(tmp_path / "a"), Specific((1, 3)))
    assert b == ModelConfig("b", str(tmp_path / "b"), "python")


def test_the_only_model_may_be_given_a_name(
    platforms: Mapping[str, Platform], tmp_path: Path
) -> None:
    make(tmp_path, "a/model.py", "b/model.py")
    (model,) = find_models([str(tmp_path / "a")], platforms, "flowers").models
    assert (model.name, model.base_path) == ("flowers", str(tmp_path / "a"))
    complaint = "^--model_name=flowers names one model, and there are 2: a, b$"
    with pytest.raises(ConfigError, match=complaint):
        find_models([str(tmp_path)], platforms, "flowers")


REFUSED: Mapping[str, tuple[list[str], list[str], str]] = {
    "nothing": ([], ["none"], r"none: No such file or directory"),
    "a clash": (
        ["x/iris/model.py", "y/iris.notes"],
        ["x", "y/iris.notes"],
        (
            r"Two models would have the name iris: \S+/x/iris \(python\) and \S+/y/iris\.notes "
            r"\(notes\)\. Rename one of them"
        ),
    ),
    "a clash of escaped names": (["a b/model.py", "a+b/model.py"], ["."], "the name a_b: "),
    "a base path and its version": (
        ["iris/1/model.py"],
        ["iris", "iris/1"],
        r"/iris \(python\) and \S+/iris/1 \(python\) are versions of the same model, iris; give one",
    ),
    "versions of different kinds": (
        ["iris/1/model.py", "iris/2/table.tsv"],
        ["iris/1", "iris/2"],
        "are versions of the same model, iris; give one",
    ),
    "several kinds": (
        ["iris/model.txt", "iris/model.notes"],
        ["iris"],
        (
            r"/iris is recognised as notes \(notes are \*\.notes\) and text \(a text is model\.txt\)\. "
            "Give the path of the model's file"
        ),
    ),
    "a name without letters": (["--/1/model.py"], ["--"], "/-- gives no name for the model"),
    "a file beside numbered directories": (
        ["iris/1/model.py", "iris/table.tsv"],
        ["iris/table.tsv"],
        r"table\.tsv and numbered directories are in \S+/iris; ",
    ),
}


@pytest.mark.parametrize(("files", "paths", "complaint"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_served_is_refused(
    files: list[str],
    paths: list[str],
    complaint: str,
    platforms: Mapping[str, Platform],
    tmp_path: Path,
) -> None:
    make(tmp_path, *files)
    with pytest.raises(ConfigError, match=complaint):
        find_models([str(tmp_path / path) for path in paths], platforms)


def test_what_is_not_recognised_is_told_with_what_would_be(
    platforms: Mapping[str, Platform], tmp_path: Path
) -> None:
    make(tmp_path, "a/1/weights.h5", "a/1/notes", "b/", *(f"c/{n}" for n in range(10)))
    make(tmp_path, "clf.pkl", "data.csv")
    with pytest.raises(ConfigError) as raised:
        find_models([str(tmp_path)], platforms)
    assert raised.value.code is Code.NOT_FOUND
    told, _, recognised = raised.value.message.partition("\nA model is recognised by its files:\n")
    first, *looked_at = told.splitlines()
    assert first.startswith(f"No model is recognised in {tmp_path}: it contains a, b, c, clf.pkl, ")
    assert "clf.pkl is a pickled object, " in first
    assert looked_at[0].startswith(
        f"  {tmp_path}/a: it contains 1; version 1: it contains notes, weights.h5; weights.h5 is a Keras"
    )
    assert looked_at[1] == f"  {tmp_path}/b: it contains nothing"
    assert looked_at[2] == f"  {tmp_path}/c: it contains 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
    assert looked_at[3].startswith(f"  {tmp_path}/clf.pkl: clf.pkl is a pickled object, ")
    assert len(looked_at) == 4
    assert recognised.splitlines() == [f"  {each.contents}" for each in platforms.values()]
    make(tmp_path, "e/x/a.notes", "e/x/b.notes")
    complaint = r"in \S+/e: it contains x\n  \S+/e/x: it contains models; give its path, too\n"
    with pytest.raises(ConfigError, match=complaint):
        find_models([str(tmp_path / "e")], platforms)
    with pytest.raises(ConfigError, match=r"data\.csv: its name is not that of a known format\n"):
        find_models([str(tmp_path / "data.csv")], platforms)


def test_what_a_directory_of_models_has_else_is_left_out(
    platforms: Mapping[str, Platform], tmp_path: Path
) -> None:
    make(tmp_path, "a/model.py", "b/", "m.keras", "README.md", "train.py")
    make(tmp_path, "c/x.notes", "c/y.notes", "d/x/1/model.py")
    found = find_models([str(tmp_path)], platforms)
    assert [model.name for model in found.models] == ["a"]
    b, c, d, keras = found.left_out
    assert c == f"{tmp_path}/c: it contains models; give its path, too"
    assert d == f"{tmp_path}/d: it contains models; give its path, too"
    assert b == f"{tmp_path}/b: it contains nothing"
    assert keras.startswith(f"{tmp_path}/m.keras: m.keras is a Keras model; ")


def test_links_in_circles_end(platforms: Mapping[str, Platform], tmp_path: Path) -> None:
    make(tmp_path, "m/a.notes", "m/loop -> .", "m/gone -> nowhere")
    assert [model.name for model in find_models([str(tmp_path / "m")], platforms).models] == ["a"]


def test_a_directory_of_models_is_bounded(
    platforms: Mapping[str, Platform], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a/model.py", "b/model.py")
    monkeypatch.setattr(model_paths, "MAX_ENTRIES", 1)
    with pytest.raises(ConfigError, match="has 2 entries; a directory of models has 1 at most"):
        find_models([str(tmp_path)], platforms)


def test_configuration_files_are_no_models(
    platforms: Mapping[str, Platform], tmp_path: Path
) -> None:
    make(tmp_path, "models.config", "iris.notes", "m.keras")
    assert not is_model_path(str(tmp_path / "models.config"), platforms)
    for path in ("iris.notes", "m.keras", ".", "missing/saved_model.pb"):
        assert is_model_path(str(tmp_path / path), platforms)
    assert is_model_path("s3://bucket/m", platforms)


def test_one_version_is_the_highest_or_the_named(
    platforms: Mapping[str, Platform], tmp_path: Path
) -> None:
    make(tmp_path, "a/1/model.py", "a/010/model.py", "a/11", "b/model.py", "c.notes")

    def version(path: str, number: int | None = None) -> tuple[int, str]:
        (model,) = find_models([str(tmp_path / path)], platforms).models
        return version_of(model, number)

    assert version("a") == (10, str(tmp_path / "a/010"))
    assert version("a", 1) == version("a/1") == (1, str(tmp_path / "a/1"))
    assert version("b") == version("b", 1) == (1, str(tmp_path / "b"))
    assert version("c.notes") == (1, str(tmp_path / "c.notes"))
    with pytest.raises(NotFoundError, match="There is no version 3 in "):
        version("a", 3)
    with pytest.raises(NotFoundError, match="only local versions can be read"):
        version_of(ModelConfig("m", "s3://bucket/m"))
