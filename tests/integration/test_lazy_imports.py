"""Deferred imports of libraries, with toy libraries in their own processes."""

import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import sys, typing
from loadcheck.stacks import lazy_imports
lazy_imports.defer(("heavy", "light.part"))
"""
FILES = {
    "heavy/__init__.py": "print('heavy imported')\nfrom heavy.deep import Base\n__version__ = '1.2'\nversion = 3\ndef double(x): return 2 * x\n",
    "heavy/deep.py": "class Base:\n    kind = 'real'\nMANY = [1, 2]\nclass Wrong(Exception): pass\n",
    "heavy/lonely.py": "alone = 1\n",
    "light/__init__.py": "",
    "light/part.py": "print('part imported')\nvalue = 5\n",
    "light/user.py": "from light.part import value\nimport heavy.deep\nfrom heavy import double, deep\nfrom heavy.deep import Base, MANY\n",
    "families/__init__.py": "from . import one, two\n",
    "families/one/__init__.py": "print('one executed')\nname = 'one'\n",
    "families/one/model.py": "size = 1\n",
    "families/two/__init__.py": "import sys\nprint('two executed')\nclass Odd(type(sys)): name = 'odd two'\nsys.modules[__name__] = Odd(__name__)\n",
}


@pytest.fixture
def run(tmp_path: Path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def run_code(code: str) -> list[str]:
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{BEGIN}\n{code}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    return run_code


def test_an_unused_library_is_not_imported(run):
    """Neither form of import, annotations, a scan of all modules nor a check for its presence imports a library."""
    code = """
import inspect, importlib.util
import light.user as user
def of(a: typing.Optional[user.Base], b: "user.Base | None" = None, c: typing.Union[user.deep, int] = 0) -> user.heavy.deep.Base: ...
either = user.Base | None, None | user.Base
inspect.getmodule(of); [hasattr(each, "__file__") for each in list(sys.modules.values())]
print(importlib.util.find_spec("heavy") is not None, lazy_imports.used)
"""
    assert run(code) == ["True []"]


def test_libraries_can_be_imported_before_they_are_used(run):
    """Those that are named and still deferred, each once; placeholders made before stand for them."""
    code = """
import light.user as user
lazy_imports.import_now(("heavy", "none"))
lazy_imports.import_now(("heavy",))
print(user.double(4), lazy_imports.used)
"""
    assert run(code) == ["heavy imported", "8 ['heavy']"]


@pytest.mark.parametrize(
    ("use", "printed"),
    [
        ("user.double(4)", "8"),
        ("user.heavy.version + user.heavy.double(1)", "TypeError"),
        ("user.heavy.double(1)", "2"),
        ("user.Base.kind", "real"),
        ("user.Base().kind", "real"),
        ("isinstance(user.Base(), user.Base), isinstance(3, user.Base)", "True False"),
        ("issubclass(type(user.Base()), user.Base)", "True"),
        ("type('Own', (), {}) is not None and __import__('types').new_class('Own', (user.Base,)).kind", "real"),
        ("list(user.MANY), user.MANY[1]", "[1, 2] 2"),
        ("__import__('pickle').loads(__import__('pickle').dumps(user.Base)).kind", "real"),
        ("setattr(user.Base, 'kind', 'changed') or sys.modules['heavy.deep'].Base.kind", "changed"),
        ("2 in user.deep.MANY", "True"),
        ("setattr(user.heavy, 'version', 9) or sys.modules['heavy'].version", "9"),
        ("user.heavy.__version__", "1.2"),
    ],
)
def test_the_first_use_imports_the_library(run, use: str, printed: str):
    """Any use imports the real library, once."""
    code = f"""
import light.user as user
try: print({use})
except TypeError: print("TypeError")
import heavy
print(type(heavy) is type(sys), heavy.double(2), len(lazy_imports.used))
"""
    assert run(code) == ["heavy imported", printed, "True 4 1"]


def test_a_submodule_is_imported_on_request(run):
    """`from heavy import lonely` imports the submodule, even if the library does not."""
    assert run("from heavy import lonely\nprint(lonely.alone)") == ["heavy imported", "1"]


def test_libraries_are_deferred_separately(run):
    """Using one library does not import the others; part of a package can be deferred without the package."""
    code = "import light.user as user\nuser.double(1)\nprint(lazy_imports.used)"
    assert run(code) == ["heavy imported", "['heavy']"]


def test_an_imported_library_is_not_deferred(run):
    """An imported library is not deferred any more."""
    assert run("import families\nlazy_imports.defer(('families',)); lazy_imports.defer_packages('families')\nprint(families.one.name)") == [
        "one executed", "two executed", "one",
    ]  # fmt: skip


def test_a_missing_library_is_not_deferred(run):
    """A missing library fails at its import, as usual."""
    code = "lazy_imports.defer(('absent',))\ntry: import absent\nexcept ModuleNotFoundError as error: print(error.name)"
    assert run(code) == ["absent"]


def test_an_unused_package_is_not_executed(run):
    """Modules of an unused package can be imported without executing it; an attribute executes it once, even if it replaces itself."""
    code = """
lazy_imports.defer_packages("families")
import families
from families.one.model import size
print(size, families.one.model.size)
print(families.one.name, families.one.name)
two = families.two
print(two.name, families.two.name)
from families.two import name
print(name)
one = sys.modules["families"].one
one.name = "changed"
print(families.one.name)
"""
    assert run(code) == ["1 1", "one executed", "one one", "two executed", "odd two odd two", "odd two", "changed"]


def test_setting_an_attribute_executes_the_package(run):
    """Setting an attribute executes the package first, and sets it on the real one."""
    code = """
lazy_imports.defer_packages("families")
import families
families.one.name = "changed"
from families.one import name
print(name)
"""
    assert run(code) == ["one executed", "changed"]
