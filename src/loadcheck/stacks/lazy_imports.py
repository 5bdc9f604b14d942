"""Imports that are deferred until the library is used.

After `defer`, `import ROOT` and `from ROOT.x import name` return placeholders at once. The first use of any placeholder (a call, an
attribute access, subclassing, isinstance) imports all of ROOT, and from then on every placeholder forwards to the real object.
`defer_packages` does the same for the subpackages of one parent, each on its own.

A library that cannot be imported then fails where it is used, so this is for pinned packages whose import is known to work.
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
"""The deferred modules that were imported after all, each by the name that was used first."""


def defer(roots: Iterable[str]) -> None:
    """Import these libraries on first use; those already imported stay as they are."""
    for root in roots:
        if root not in sys.modules:
            _finder().add(root, LibraryFinder(root))


def defer_packages(parent: str) -> None:
    """Execute a subpackage of `parent` when one of its attributes is used, not when `parent` imports it."""
    if parent not in sys.modules:
        _finder().add(parent, PackageFinder(parent))


def import_now(roots: Iterable[str]) -> None:
    """Import those of these libraries that are still deferred."""
    for root in roots:
        for library in _finder().libraries(root):
            if library.deferred:
                library.module(root)


class DeferredFinder(MetaPathFinder):
    """Asks those finders that a module may belong to: there are dozens, each import asks, and a load has thousands."""

    def __init__(self) -> None:
        self._by_package: dict[str, list[LibraryFinder | PackageFinder]] = {}

    def add(self, root: str, finder: LibraryFinder | PackageFinder) -> None:
        self._by_package.setdefault(root.partition(".")[0], []).insert(0, finder)

    def libraries(self, root: str) -> list[LibraryFinder]:
        """The finder of the library with this root; empty where it is not deferred."""
        finders = self._by_package.get(root.partition(".")[0], ())
        return [finder for finder in finders if isinstance(finder, LibraryFinder) and finder.root == root]

    def find_spec(self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        for finder in self._by_package.get(name.partition(".")[0], ()):
            if (spec := finder.find_spec(name, path)) is not None:
                return spec
        return None


def _finder() -> DeferredFinder:
    """The one of this process, which comes before Python's own."""
    found = next((finder for finder in sys.meta_path if isinstance(finder, DeferredFinder)), None)
    if found is None:
        found = DeferredFinder()
        sys.meta_path.insert(0, found)
    return found


class LibraryFinder(Loader):
    """Creates placeholders for the modules of one library, until one of them is used.

    Attributes:
        deferred: whether none was used yet.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.deferred = True

    def covers(self, name: str) -> bool:
        return name == self.root or name.startswith(f"{self.root}.")

    def find_spec(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        if (
            not self.deferred
            or not self.covers(name)
            or (name == self.root and PathFinder.find_spec(name, path) is None)
        ):
            return None
        spec = ModuleSpec(name, self, is_package=True)
        spec.submodule_search_locations = []
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return LazyModule(spec.name, self)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is executed yet."""

    def module(self, name: str) -> ModuleType:
        """The real module; the first call imports the library."""
        if self.deferred:
            self.deferred = False
            used.append(name)
            for covered in [module for module in sys.modules if self.covers(module)]:
                del sys.modules[covered]
        return importlib.import_module(name)

    def value(self, module: str, name: str) -> Any:
        """An attribute of a real module, or a submodule that is not imported yet."""
        found = self.module(module)
        return getattr(found, name) if hasattr(found, name) else self.module(f"{module}.{name}")


class LazyModule(ModuleType):
    """A module of a deferred library."""

    def __init__(self, name: str, library: LibraryFinder) -> None:
        super().__init__(name)
        self.__dict__["_library"] = library

    def __setattr__(self, name: str, value: Any) -> None:
        if _set_by_import(name, value):
            super().__setattr__(name, value)
        else:  # a user patches the library
            setattr(self.__dict__["_library"].module(self.__dict__["__name__"]), name, value)

    def __getattr__(self, name: str) -> Any:
        library, own = self.__dict__["_library"], self.__dict__["__name__"]
        if not library.deferred:
            return library.value(own, name)
        if name == "__version__":
            return library.value(own, name)
        if name.startswith("__"):  # code that scans all modules, such as `inspect`, uses none of them
            raise AttributeError(name)
        return LazyAttribute(library, own, name)


class LazyAttribute:
    """An attribute of a module of a deferred library."""

    __slots__ = ("_of",)

    def __init__(self, library: LibraryFinder, module: str, name: str) -> None:
        object.__setattr__(self, "_of", (library, module, name))

    def __getattr__(self, name: str) -> Any:
        if name in _LOOKED_UP_BY_TYPING:
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
        return typing.Union[self, other]  # noqa: UP007  # `A | B` needs classes, which a placeholder is not

    def __ror__(self, other: Any) -> Any:
        return typing.Union[other, self]  # noqa: UP007

    def __reduce__(self) -> tuple[Any, ...]:
        _, module, name = object.__getattribute__(self, "_of")
        return _import, (module, name)


def _set_by_import(name: str, value: Any) -> bool:
    """Whether Python's import system itself sets this on a module: its spec and path, and its submodules."""
    return name.startswith("__") or isinstance(value, ModuleType)


_LOOKED_UP_BY_TYPING = frozenset(
    ("__origin__", "__args__", "__parameters__", "__typing_subst__", "__typing_is_unpacked_typevartuple__", "__isabstractmethod__")
)  # fmt: skip
"""Attributes that typing and abc look up on annotations and class members; they do not trigger the import."""


def _real(attribute: LazyAttribute) -> Any:
    library, module, name = object.__getattribute__(attribute, "_of")
    return library.value(module, name)


def _import(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


# -------------------------------------------------------------------------------------------------------------- packages, by name


class PackageFinder(Loader):
    """Creates placeholders for the subpackages of one parent: each is executed when one of its attributes is used."""

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._real: dict[str, ModuleType] = {}
        self._wanted: set[str] = set()

    def find_spec(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
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
        return LazyPackage(spec.name, self)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is executed yet."""

    def module(self, name: str) -> ModuleType:
        """The real package, executed once; its submodules that are imported already stay."""
        if name not in self._real:
            self._wanted.add(name)
            sys.modules.pop(name, None)
            self._real[name] = importlib.import_module(name)
        return self._real[name]


class LazyPackage(ModuleType):
    """A package that is imported by name but not executed yet."""

    def __init__(self, name: str, packages: PackageFinder) -> None:
        super().__init__(name)
        self.__dict__["_packages"] = packages

    def __setattr__(self, name: str, value: Any) -> None:
        if _set_by_import(name, value):
            super().__setattr__(name, value)
        else:
            setattr(self.__dict__["_packages"].module(self.__dict__["__name__"]), name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["_packages"].module(self.__dict__["__name__"]), name)
