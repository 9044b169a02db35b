"""The operations of deployments on base paths, and their failures."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from contents import KEY_FILES, allow, make_version
from origin import ALWAYS, Origin, Outage
from world import Content, Model


class Disk:
    """Writes and removes versions. No operation notifies the server or waits for it."""

    def __init__(
        self, template: Path, scratch: Path, origin: Origin, choose: random.Random
    ) -> None:
        """Prepare; writes nothing.

        Args:
            template: A version directory of `half_plus_two`.
            scratch: A directory on the file system of the base paths.
            origin: The web server in front of some of them.
            choose: Chooses between variants.
        """
        self._template = template
        self._scratch = scratch
        self._origin = origin
        self._choose = choose
        self._made = 0

    def add(self, model: Model, version: int, content: Content) -> None:
        """Add a version atomically."""
        made = self._make(model, version, content)
        target = model.base_path / str(version)
        if content is Content.UNREADABLE:
            self._origin.cuts[target / KEY_FILES[model.platform]] = ALWAYS
        elif model.origin and self._choose.random() < 0.3:
            # A fetch succeeds as long as not every connection breaks.
            self._origin.cuts[target / KEY_FILES[model.platform]] = self._choose.randint(1, 3)
        if content is Content.GOOD and self._choose.random() < 0.3:
            target.symlink_to(made)
        else:
            made.rename(target)

    def copy_slowly(self, model: Model, version: int) -> Callable[[], None]:
        """Copy all of a version but the file that makes it complete, with pauses.

        Returns:
            A function that writes this file, in two parts.
        """
        made = self._make(model, version, Content.GOOD)
        target = model.base_path / str(version)
        key = KEY_FILES[model.platform]
        target.mkdir()
        for path in sorted(made.rglob("*")):
            copied = target / path.relative_to(made)
            if path.is_dir():
                copied.mkdir()
            elif path.name != key:
                shutil.copyfile(path, copied)
            time.sleep(self._choose.uniform(0, 0.1))
        content = (made / key).read_bytes()

        def finish() -> None:
            with (target / key).open("wb", buffering=0) as file:
                file.write(content[: len(content) // 2])
                time.sleep(self._choose.uniform(0, 0.3))
                file.write(content[len(content) // 2 :])

        return finish

    def finish(self, model: Model, version: int) -> None:
        """Complete an abandoned version in place."""
        made = self._make(model, version, Content.GOOD)
        key = KEY_FILES[model.platform]
        shutil.copyfile(made / key, model.base_path / str(version) / key)

    def remove(self, model: Model, version: int) -> None:
        """Remove a version: file by file, or atomically."""
        path = model.base_path / str(version)
        self._origin.cuts.pop(path / KEY_FILES[model.platform], None)
        if not path.is_symlink():
            allow(path, model)
        if path.is_symlink():
            path.unlink()
        elif self._choose.random() < 0.5:
            shutil.rmtree(path)
        else:
            path.rename(self._aside(model))

    def clear(self, model: Model, versions: Iterable[int]) -> None:
        """Remove several versions: one by one, or all atomically where intermediate states matter."""
        if model.keeps_last:
            emptied = self._aside(model)
            model.base_path.rename(emptied)
            model.base_path.mkdir()
            for version in versions:
                self._origin.cuts.pop(
                    model.base_path / str(version) / KEY_FILES[model.platform], None
                )
                allow(emptied / str(version), model)
        else:
            for version in versions:
                self.remove(model, version)

    def replace(self, model: Model, version: int) -> None:
        """Replace a version by a good one."""
        self.remove(model, version)
        self.add(model, version, Content.GOOD)

    def flap(self, model: Model, version: int) -> None:
        """Remove a version, and restore it."""
        path, aside = model.base_path / str(version), self._aside(model)
        path.rename(aside)
        time.sleep(self._choose.uniform(0, 1.2))
        aside.rename(path)

    def allow(self, model: Model, version: int) -> None:
        """Restore the permissions of a version."""
        allow(model.base_path / str(version), model)

    def hide(self, model: Model) -> None:
        """Remove the base path, or its permissions."""
        if model.origin:
            self._origin.outages[model.name] = self._choose.choice(list(Outage))
        elif self._choose.random() < 0.3:
            model.base_path.chmod(0)
        else:
            model.base_path.rename(self._hidden(model))

    def show(self, model: Model) -> None:
        """Restore the base path."""
        if model.origin:
            del self._origin.outages[model.name]
        elif model.base_path.exists():
            model.base_path.chmod(0o755)
        else:
            self._hidden(model).rename(model.base_path)

    def litter(self, model: Model) -> None:
        """Create entries in the base path that are no versions; they stay."""
        self._made += 1
        (model.base_path / f"{self._made + 1000}").touch()
        (model.base_path / f"tmp-{self._made}").mkdir()
        (model.base_path / f"{self._made}.partial").mkdir()

    def _make(self, model: Model, version: int, content: Content) -> Path:
        made = self._aside(model)
        return make_version(made, self._template, model, version, content, self._choose)

    def _aside(self, model: Model) -> Path:
        self._made += 1
        aside = self._scratch / model.name
        aside.mkdir(exist_ok=True)
        return aside / f"aside-{self._made}"

    def _hidden(self, model: Model) -> Path:
        return self._scratch / f"hidden-{model.name}"
