"""No module of a crate depends on itself through others: at each level, the modules of one folder have an order."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CRATES = sorted(path.parent for path in ROOT.glob("crates/*/Cargo.toml"))

Module = tuple[str, ...]
# From one module to another of the same folder, with the files that have the path.
Edges = dict[tuple[str, str], set[str]]


@pytest.mark.parametrize("crate", CRATES, ids=lambda path: path.name)
def test_the_modules_of_a_crate_depend_on_each_other_in_one_direction(crate: Path) -> None:
    levels = levels_of(crate / "src")
    is_small = len(list(crate.glob("src/**/*.rs"))) <= 2
    assert levels or is_small, "no path was found"
    found = [
        f"{'::'.join(('crate', *folder))}: {' -> '.join(cycle)} -> {cycle[0]}\n"
        + "".join(
            f"  {one} -> {other}: {', '.join(sorted(files))}\n"
            for (one, other), files in sorted(edges.items())
            if one in cycle and other in cycle
        )
        for folder, edges in levels.items()
        for cycle in cycles(set(edges))
    ]
    assert not found, "modules that depend on each other:\n" + "\n".join(found)


def test_a_cycle_is_found_through_groups_and_relative_paths_and_not_through_tests_or_comments(
    tmp_path: Path,
) -> None:
    (tmp_path / "serving").mkdir()
    sources = {
        "lib.rs": "pub mod codec; mod error; mod serving;",
        "error.rs": "//! See [`crate::codec`].\n#[cfg(test)]\nmod tests { use crate::codec::X; const C: char = '}'; }",
        "codec.rs": "use crate::{error::Error, serving::{map::{self, Map}}};",
        "serving/mod.rs": "mod map; mod run; pub use run::run;",
        "serving/map.rs": "#[cfg(test)]\nmod tests;\nfn f() { super::run::run(crate::codec::json) }",
        "serving/run.rs": "use super::map::Map; use std::error::Error; // crate::nothing",
    }
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    found = levels_of(tmp_path)
    assert found == {
        (): {
            ("codec", "error"): {"codec.rs"},
            ("codec", "serving"): {"codec.rs"},
            ("serving", "codec"): {"serving/map.rs"},
        },
        ("serving",): {("map", "run"): {"serving/map.rs"}, ("run", "map"): {"serving/run.rs"}},
    }
    assert cycles(set(found[()])) == [["codec", "serving"]]
    assert cycles(set(found["serving",])) == [["map", "run"]]


def levels_of(source: Path) -> dict[Module, Edges]:
    """What depends on what, by the folder that both are in."""
    files = {
        module_of(path.relative_to(source)): path
        for path in source.rglob("*.rs")
        if path.name != "tests.rs"
    }
    found: dict[Module, Edges] = defaultdict(lambda: defaultdict(set))
    for own, path in files.items():
        for used in paths(without_tests(path.read_text())):
            other = resolved(own, used, files)
            common = next(
                (
                    depth
                    for depth, pair in enumerate(zip(own, other, strict=False))
                    if pair[0] != pair[1]
                ),
                -1,
            )
            if common >= 0:
                edge = (own[common], other[common])
                found[own[:common]][edge].add(path.relative_to(source).as_posix())
    return {folder: dict(edges) for folder, edges in found.items()}


def module_of(path: Path) -> Module:
    parts = path.with_suffix("").parts
    return parts[:-1] if parts[-1] in {"mod", "lib"} else parts


def resolved(own: Module, used: list[str], files: dict[Module, Path]) -> Module:
    """The module that has what a path names; a name that is no module is an item of the module in front of it."""
    base = () if used[0] == "crate" else own
    names = used[1:] if used[0] in {"crate", "self"} else used
    while names and names[0] == "super":
        base, names = base[:-1], names[1:]
    for name in names:
        if (*base, name) not in files:
            break
        base = (*base, name)
    return base


def without_tests(source: str) -> str:
    """The source without comments, strings and characters, and without what is compiled for tests only."""
    source = re.sub(
        r'//[^\n]*|/\*.*?\*/|b?"(?:\\.|[^"\\])*"|b?\'(?:\\.|[^\'\\])\'',
        " ",
        source,
        flags=re.DOTALL,
    )
    kept = []
    while test := re.search(r"#\[cfg\((?:all\()?test\b[^\]]*\]", source):
        kept.append(source[: test.start()])
        source = source[end_of_item(source, test.end()) :]
    return "".join([*kept, source])


def end_of_item(source: str, start: int) -> int:
    depth = 0
    for position in range(start, len(source)):
        depth += {"{": 1, "}": -1}.get(source[position], 0)
        if depth == 0 and source[position] in ";}":
            return position + 1
    return len(source)


def paths(source: str) -> Iterator[list[str]]:
    """Each path that begins at the root, at the module or above it, with groups written out."""
    for path in re.finditer(r"(?<!:)\b(?:crate|self|super)::[\w:]*(?:\{[^;]*)?", source):
        yield from tree(re.findall(r"\w+|::|\S", path[0]))


def tree(tokens: list[str]) -> Iterator[list[str]]:
    """The paths of one tree, whose tokens are taken from the front of the list."""
    names: list[str] = []
    while tokens and (re.match(r"\w", tokens[0]) or tokens[0] == "{"):
        token = tokens.pop(0)
        if token == "{":
            while tokens and tokens[0] != "}":
                yield from ([*names, *rest] for rest in tree(tokens))
                while tokens and tokens[0] not in {",", "}"}:
                    tokens.pop(0)
                if tokens and tokens[0] == ",":
                    tokens.pop(0)
            del tokens[:1]
            return
        names.append(token)
        if not tokens or tokens[0] != "::":
            break
        tokens.pop(0)
    yield [name for position, name in enumerate(names) if name != "self" or position == 0]


def cycles(edges: set[tuple[str, str]]) -> list[list[str]]:
    """The groups of modules each of which leads to all others of its group."""
    reached = {one: reachable(one, edges) for one, _ in edges}
    groups = {
        tuple(sorted(other for other in found if one in reached.get(other, set())))
        for one, found in reached.items()
        if one in found
    }
    return sorted(map(list, groups))


def reachable(start: str, edges: set[tuple[str, str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        one = waiting.pop()
        new = {other for origin, other in edges if origin == one} - found
        found |= new
        waiting += new
    return found
