"""Libraries that are imported when they are used, and not when another one names them.

`put_off` makes `import ROOT` and `from ROOT.x import name` give stand-ins at once. The first of them that is used, whichever way
(called, asked for an attribute, derived from, compared with by isinstance), has the whole of ROOT imported as ever, and every stand-in
of it is the real thing from then on. `put_off_packages` does the same for packages that are only named, one by one.

Where a library would fail to import, it now fails where it is used: so this is for pinned packages whose import is known to work.
"""

from __future__ import annotations

import importlib
import sys
import typing
from collections.abc import Iterable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

used: list[str] = []
"""What was put off and imported all the same, by the name that was asked for first."""


def put_off(roots: Iterable[str]) -> None:
    """Import these when they are used; one that is imported already stays."""
    sys.meta_path[:0] = [Library(root) for root in roots if root not in sys.modules]


def put_off_packages(parent: str) -> None:
    """Execute a package of `parent` when an attribute of it is asked for, and not when `parent` names it."""
    if parent not in sys.modules:
        sys.meta_path.insert(0, Packages(parent))


class Library(MetaPathFinder, Loader):
    """Gives stand-ins for the modules of one library, until one of them is used."""

    def __init__(self, root: str) -> None:
        self.root = root

    def covers(self, name: str) -> bool:
        return name == self.root or name.startswith(f"{self.root}.")

    def find_spec(self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        if not self.covers(name) or (name == self.root and PathFinder.find_spec(name, path) is None):
            return None
        spec = ModuleSpec(name, self, is_package=True)
        spec.submodule_search_locations = []
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return LaterModule(spec.name, self)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is executed yet."""

    def module(self, name: str) -> ModuleType:
        """The real module; the first that asks has the library imported."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            used.append(name)
            for each in [each for each in sys.modules if self.covers(each)]:
                del sys.modules[each]
        return importlib.import_module(name)

    def value(self, module: str, name: str) -> Any:
        """An attribute of a real module, or a module below it that nobody has imported."""
        found = self.module(module)
        return getattr(found, name) if hasattr(found, name) else self.module(f"{module}.{name}")


class LaterModule(ModuleType):
    """A module of a library that was put off."""

    def __init__(self, name: str, library: Library) -> None:
        super().__init__(name)
        self.__dict__["_library"] = library

    def __setattr__(self, name: str, value: Any) -> None:
        if _is_importers(name, value):
            super().__setattr__(name, value)
        else:  # somebody changes the library
            setattr(self.__dict__["_library"].module(self.__dict__["__name__"]), name, value)

    def __getattr__(self, name: str) -> Any:
        library, own = self.__dict__["_library"], self.__dict__["__name__"]
        if library not in sys.meta_path:
            return library.value(own, name)
        if name == "__version__":
            return library.value(own, name)
        if name.startswith("__"):  # what looks through all modules, as `inspect` does, uses none of them
            raise AttributeError(name)
        return Later(library, own, name)


class Later:
    """What a module of a library that was put off has under a name."""

    __slots__ = ("_of",)

    def __init__(self, library: Library, module: str, name: str) -> None:
        object.__setattr__(self, "_of", (library, module, name))

    def __getattr__(self, name: str) -> Any:
        if name in _ASKED_BY_TYPING:
            raise AttributeError(name)
        return getattr(_real(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_real(self), name, value)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return _real(self)(*arguments, **keywords)

    def __getitem__(self, key: Any) -> Any:
        return _real(self)[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(_real(self))

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_real(self),)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, _real(self))

    def __subclasscheck__(self, subclass: Any) -> bool:
        return issubclass(subclass, _real(self))

    def __or__(self, other: Any) -> Any:
        return typing.Union[self, other]  # noqa: UP007  # as `A | B` of classes, which a stand-in is not

    def __ror__(self, other: Any) -> Any:
        return typing.Union[other, self]  # noqa: UP007

    def __reduce__(self) -> tuple[Any, ...]:
        _, module, name = object.__getattribute__(self, "_of")
        return _import, (module, name)


def _is_importers(name: str, value: Any) -> bool:
    """Whether Python's own import sets it on a module: its spec and path, and each module below it."""
    return name.startswith("__") or isinstance(value, ModuleType)


_ASKED_BY_TYPING = frozenset(
    ("__origin__", "__args__", "__parameters__", "__typing_subst__", "__typing_is_unpacked_typevartuple__", "__isabstractmethod__")
)  # fmt: skip
"""What typing and abc ask of whatever stands in an annotation or a class; no library is imported for that."""


def _real(later: Later) -> Any:
    library, module, name = object.__getattribute__(later, "_of")
    return library.value(module, name)


def _import(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


# -------------------------------------------------------------------------------------------------------------- packages, by name


class Packages(MetaPathFinder, Loader):
    """Gives stand-ins for the packages of one parent: each is executed when an attribute of it is asked for."""

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._real: dict[str, ModuleType] = {}
        self._wanted: set[str] = set()

    def find_spec(self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        parent, _, own = name.rpartition(".")
        if parent != self._parent or name in self._wanted or not path:
            return None
        folder = Path(path[0]) / own
        if not (folder / "__init__.py").is_file():
            return None
        spec = ModuleSpec(name, self, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return NamedPackage(spec.name, self)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is executed yet."""

    def module(self, name: str) -> ModuleType:
        """The real package, executed once; what was imported below it stays."""
        if name not in self._real:
            self._wanted.add(name)
            sys.modules.pop(name, None)
            self._real[name] = importlib.import_module(name)
        return self._real[name]


class NamedPackage(ModuleType):
    """A package that was only named so far."""

    def __init__(self, name: str, packages: Packages) -> None:
        super().__init__(name)
        self.__dict__["_packages"] = packages

    def __setattr__(self, name: str, value: Any) -> None:
        if _is_importers(name, value):
            super().__setattr__(name, value)
        else:
            setattr(self.__dict__["_packages"].module(self.__dict__["__name__"]), name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["_packages"].module(self.__dict__["__name__"]), name)
