from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from servable._server.config.flags import Flags
from servable._server.config.models import ConfigRules, ModelConfig, validate_models
from servable._server.config.permissions import Permissions, start_permissions
from servable._server.remote.stores import Reach, Store, is_at_or_below, store_of
from servable.errors import Code, ConfigError, ServableError

CODE = ("python",)
"""The platforms whose versions contain code."""


def permissions(directory: Path, *models: ModelConfig, **flags: object) -> Permissions:
    """The permissions of a server that was started with these models and flags."""
    return start_permissions(Flags(**flags), models, directory / "cache", CODE)  # type: ignore[arg-type]


def python(base_path: object, name: str = "m") -> ModelConfig:
    return ModelConfig(name, str(base_path), "python")


def saved(base_path: object) -> ModelConfig:
    return ModelConfig("m", str(base_path))


def refusal(within: Permissions, model: ModelConfig) -> str:
    with pytest.raises(ServableError) as raised:
        within.check(model)
    assert raised.value.code is Code.PERMISSION_DENIED
    return raised.value.message


def make_version(base_path: Path) -> Path:
    version = base_path / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text("")
    return version


def test_python_models_are_served_below_base_paths_of_the_start(tmp_path: Path) -> None:
    named, other = tmp_path / "named", tmp_path / "other"
    version, stray = make_version(named), make_version(other)
    within = permissions(tmp_path, python(named))
    for base_path in (named, f"{named}/", named / "below", f"file://{named}", f"{named}/x/.."):
        within.check(python(base_path))
    for base_path in (
        other,
        f"{named}/../other",
        f"{named}2",
        tmp_path,
        f"file://{named}/%2e%2e/other",
    ):
        assert "--allow_python_models" in refusal(within, python(base_path))
    assert within.admit_code(python(named), str(version)) == str(version.resolve())
    with pytest.raises(ServableError, match="below no base path"):
        within.admit_code(python(named), str(stray))
    permissions(tmp_path, allow_python_models=True).check(python(other))
    permissions(tmp_path).check(saved(other))


def test_code_in_files_is_trusted_by_the_start_only(tmp_path: Path) -> None:
    model = python(tmp_path / "named")
    trusted = replace(model, trusted=True)
    within = permissions(tmp_path, model)
    within.check(model)
    assert "was not when the server was started" in refusal(within, trusted)
    rules = ConfigRules(permissions=within)
    with pytest.raises(ConfigError, match="--allow_python_models allows it"):
        validate_models([trusted], current=[model], rules=rules)
    permissions(tmp_path, trusted).check(trusted)
    permissions(tmp_path, model, allow_python_models=True).check(trusted)


def test_refusals_name_the_kind(tmp_path: Path) -> None:
    version = make_version(tmp_path / "m")
    within = replace(permissions(tmp_path), code_platforms=("python", "skops"))
    for platform, told in (("python", "Python"), ("skops", "skops")):
        model = ModelConfig("m", str(tmp_path / "m"), platform)
        assert refusal(within, model).startswith(
            f"Model m is {told} code in {tmp_path}/m, which is no base path of a {told} model that "
        )
        with pytest.raises(ServableError, match=f"below no base path of a {told} model"):
            within.admit_code(model, str(version))
        remote = ModelConfig("m", "s3://bucket/m", platform)
        known = replace(within, reach=Reach(frozenset([store_of("s3://bucket")])))
        assert refusal(known, remote).startswith(
            f"Model m is {told} code in the remote store s3://"
        )


def test_links_do_not_lead_out_of_base_paths(tmp_path: Path) -> None:
    named, other = tmp_path / "named", tmp_path / "other"
    make_version(named)
    stray = make_version(other)
    within = permissions(tmp_path, python(named))
    (named / "way_out").symlink_to(other)
    (named / "2").symlink_to(stray)
    refusal(within, python(named / "way_out"))
    with pytest.raises(ServableError, match="below no base path"):
        within.admit_code(python(named), str(named / "2"))
    everywhere = permissions(tmp_path, allow_python_models=True)
    assert everywhere.admit_code(python(named), str(named / "2")) == str(stray.resolve())


def test_a_base_path_that_is_a_link_itself_may_move(tmp_path: Path) -> None:
    first, second = make_version(tmp_path / "a"), make_version(tmp_path / "b")
    current = tmp_path / "current"
    current.symlink_to(tmp_path / "a")
    within = permissions(tmp_path, python(current))
    assert within.admit_code(python(current), str(current / "1")) == str(first.resolve())
    current.unlink()
    current.symlink_to(tmp_path / "b")
    assert within.admit_code(python(current), str(current / "1")) == str(second.resolve())


def test_code_that_others_may_write_is_never_admitted(tmp_path: Path) -> None:
    version = make_version(tmp_path / "m")
    (version / "model.py").chmod(0o666)
    for within in (permissions(tmp_path, python(tmp_path / "m")),
                   permissions(tmp_path, allow_python_models=True)):  # fmt: skip
        with pytest.raises(ServableError, match="may be written by others"):
            within.admit_code(python(tmp_path / "m"), str(version))


def test_python_code_comes_only_from_stores_of_the_flag(tmp_path: Path) -> None:
    remote = "s3://bucket/m"
    for within in (
        permissions(tmp_path, python(remote)),
        permissions(tmp_path, saved(remote), allow_python_models=True),
    ):
        within.check(saved("s3://bucket/other"))
        assert "--allowed_remote_stores does not name" in refusal(within, python(remote))
    flag = {"allowed_remote_stores": "s3://bucket"}
    named = permissions(tmp_path, python(remote), **flag)
    named.check(python("s3://bucket/m/below"))
    for outside in ("s3://bucket/other", "s3://bucket/m/../other", "s3://bucket/m/%2e%2e/other"):
        assert "--allow_python_models" in refusal(named, python(outside))
    permissions(tmp_path, allow_python_models=True, **flag).check(python("s3://bucket/other"))


def test_the_cache_of_remote_models_is_no_place_for_code(tmp_path: Path) -> None:
    version = make_version(tmp_path / "cache/versions/abc/content")
    within = permissions(tmp_path, allow_python_models=True)
    assert "in the cache" in refusal(within, python(version.parent))
    (tmp_path / "link").symlink_to(version.parent)
    refusal(within, python(tmp_path / "link"))
    with pytest.raises(ServableError, match="in the cache"):
        within.admit_code(python(tmp_path / "link"), str(tmp_path / "link/1"))
    assert within.admit_code(python("s3://bucket/m"), str(version)) == str(version.resolve())
    elsewhere = make_version(tmp_path / "elsewhere")
    with pytest.raises(ServableError, match="not in the cache"):
        within.admit_code(python("s3://bucket/m"), str(elsewhere))


def test_remote_stores_are_those_of_the_start_and_of_the_flag(tmp_path: Path) -> None:
    within = permissions(
        tmp_path, saved("http://127.0.0.1:9000/models/m"), allowed_remote_stores="s3://b, hf://me/m"
    )
    for base_path in (
        "http://127.0.0.1:9000/elsewhere", "http://user:secret@127.0.0.1:9000/m", "s3://b/m", "s3a://b/m",
        "S3://b/m", "hf://me/m/1",
    ):  # fmt: skip
        within.check(saved(base_path))
    for base_path in (
        "http://127.0.0.1/m", "http://127.0.0.1:9001/m", "https://127.0.0.1:9000/m", "http://localhost:9000/m",
        "http://127.0.0.1:9000@attacker/m", "http://attacker\\@127.0.0.1:9000/m", "http://2130706433:9000/m",
        "http://127.0.0.1:9000\\.attacker/m", "http://127.0.0.1:90000/m", "http:///m", "http://[::1]:9000/m",
        "s3://c/m", "s3://b2/m", "gs://b/m", "hf://me/other", "hf://datasets/me/m", "zip://x::s3://b/m",
        "memory://x/m", "ftp://127.0.0.1/m", "github://me:it@main/m", "reference://b/m",
    ):  # fmt: skip
        refusal(within, saved(base_path))


def test_a_configuration_that_is_in_force_keeps_no_other_change_from_being_made(
    tmp_path: Path,
) -> None:
    rules = ConfigRules(permissions=permissions(tmp_path))
    before = [ModelConfig("a", "s3://gone/a")]
    validate_models([*before, saved("/m")], before, rules)
    with pytest.raises(ConfigError) as raised:
        validate_models([ModelConfig("a", "s3://gone/b")], before, rules)
    assert raised.value.code is Code.PERMISSION_DENIED


@pytest.mark.parametrize("mode", [0o666, 0o646])
def test_a_configuration_file_that_others_may_write_names_nothing(
    tmp_path: Path, mode: int
) -> None:
    file = tmp_path / "models.config"
    file.write_text("#")
    model = python(tmp_path / "m")
    permissions(tmp_path, model, model_config_file=str(file)).check(model)
    file.chmod(mode)
    within = permissions(tmp_path, model, saved("s3://bucket/m"), model_config_file=str(file))
    refusal(within, model)
    refusal(within, saved("s3://bucket/m"))


@pytest.mark.parametrize(
    "flag", ["bucket", "/models", "file:///models", "s3://bucket/m", "https://h/m", "https://", "http://h\\x"]
)  # fmt: skip
def test_stores_that_cannot_be_understood_end_the_start(tmp_path: Path, flag: str) -> None:
    with pytest.raises(ConfigError, match="--allowed_remote_stores has"):
        permissions(tmp_path, allowed_remote_stores=flag)


@pytest.mark.parametrize(
    ("url", "store", "shown"),
    [
        ("https://Host.example/a", Store("https", "host.example:443"), "https://host.example"),
        ("http://host.:8080/a", Store("http", "host:8080"), "http://host:8080"),
        ("http://[::1]:80/a", Store("http", "[::1]:80"), "http://[::1]"),
        ("abfs://c@account.dfs.core.windows.net/a", Store("az", "c@account.dfs.core.windows.net"), None),
        ("hf://datasets/o/r/m", Store("hf", "datasets/o/r"), None),
        ("s3://arn:aws:s3:eu:1:accesspoint/p/m", Store("s3", "arn:aws:s3:eu:1:accesspoint/p"), None),
    ],
)  # fmt: skip
def test_a_store_is_scheme_and_place(url: str, store: Store, shown: str | None) -> None:
    assert store_of(url) == store
    assert str(store) == (shown or f"{store.scheme}://{store.place}")


def test_paths_below_others_are_recognised_by_segments() -> None:
    assert is_at_or_below("s3://b/m/1", "s3a://b/m/")
    assert is_at_or_below("https://h/m", "https://h:443/m")
    for url in (
        "s3://b/m2",
        "s3://b/m/..",
        "s3://b/m/%2E%2e/x",
        "s3://b/m/%252e%252e/x",
        "s3://b",
        "http://h:x/m",
    ):
        assert not is_at_or_below(url, "s3://b/m"), url


def test_a_configuration_file_in_a_remote_store_names_stores_at_the_start_only(
    tmp_path: Path,
) -> None:
    flags = Flags(model_config_file="s3://configuration/models.config")
    first = (saved("s3://models/m"), python(tmp_path / "m"))
    started = start_permissions(flags, first, tmp_path / "cache", CODE, first)
    started.check(saved("s3://models/other"))
    assert "--allow_python_models" in refusal(started, first[1])
    later = (saved("s3://elsewhere/m"),)
    polled = start_permissions(flags, later, tmp_path / "cache", CODE, first)
    polled.check(saved("s3://models/other"))
    refusal(polled, later[0])
    flags = Flags(
        model_config_file="s3://configuration/models.config",
        allowed_remote_stores="s3://configuration",
    )
    trusted = start_permissions(flags, (*later, first[1]), tmp_path / "cache", CODE, first)
    trusted.check(later[0])
    trusted.check(first[1])


def test_every_platform_that_runs_code_is_restricted(tmp_path: Path) -> None:
    within = start_permissions(Flags(), (), tmp_path / "cache", ("python", "notes"))
    assert "--allow_python_models" in refusal(within, ModelConfig("m", str(tmp_path), "notes"))
    within.check(ModelConfig("m", str(tmp_path), "plain"))
