"""Imports that wait until somebody needs them: the pages' process reads recipes and stored results, and runs no model.

PyTorch alone takes longer to import than everything else a page needs. `postpone("torch")` puts a stand-in under that name;
the first attribute asked of it imports the real module and answers from there. Only app.py asks for this: workers, tests
and the command line import the plain way.
"""

from __future__ import annotations

import importlib
import sys
import threading
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def postpone(name: str) -> None:
    """Does nothing where the module is there already, or is not installed."""
    if name not in sys.modules and (spec := find_spec(name)) is not None:
        sys.modules[name] = Later(name, spec)
        sys.meta_path.insert(0, _Arrived(name))


class Later(ModuleType):
    """Stands for a module that has not been imported yet; afterwards a thin front of the real one, for those who hold it."""

    def __init__(self, name: str, spec: ModuleSpec):
        super().__init__(name)
        self.__dict__.update(__spec__=spec, __file__=spec.origin, _lock=threading.RLock(), _real=None)
        for unset in ("__loader__", "__package__", "__doc__"):
            del self.__dict__[unset]  # asked of the real module, like every other attribute; inspect walks all modules for __file__

    def __getattr__(self, attribute: str):
        return getattr(arrive(self), attribute)

    def __setattr__(self, attribute: str, value) -> None:
        setattr(arrive(self), attribute, value)

    def __dir__(self):
        return dir(arrive(self))


def arrive(stand_in: Later) -> ModuleType:
    """The real module, imported now if it was not."""
    own = stand_in.__dict__
    with own["_lock"]:
        if own["_real"] is None:
            name = own["__name__"]
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
            own["_real"] = importlib.import_module(name)
    return own["_real"]


class _Arrived:
    """`import torch.nn` while torch is postponed: asking for the package's path has imported all of it, torch.nn included,
    which must not be executed a second time."""

    def __init__(self, name: str):
        self.inside = name + "."

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.startswith(self.inside) and name in sys.modules else None

    def create_module(self, spec):
        module = sys.modules[spec.name]
        self.kept = module.__spec__
        return module

    def exec_module(self, module):
        module.__spec__ = self.kept
