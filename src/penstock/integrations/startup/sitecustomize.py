"""Python imports this before it runs a program, as `penstock run` and `penstock profile` put this folder
first on ``PYTHONPATH``.

It puts Penstock in place, and makes way for the module of this name that Python would have found otherwise.
"""

import importlib
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [place for place in sys.path if os.path.abspath(place) != _HERE]

try:
    if "PENSTOCK_PROFILE" in os.environ:
        from penstock.integrations.profiled import begin
    else:
        from penstock.integrations.run import begin
except ImportError:
    if os.environ.get("PENSTOCK_RUN") == str(os.getpid()) or os.environ.get("PENSTOCK_PROFILE"):
        raise
    # else the program has started a Python that has no Penstock: it does without
else:
    begin()

del sys.modules["sitecustomize"]
importlib.import_module("sitecustomize")  # where there is none, Python expects the error that this raises
