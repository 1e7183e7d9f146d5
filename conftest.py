"""Optional modules are collected for their doctests only where the package that they need is installed."""

from importlib.util import find_spec

_NEEDS = {"quantcore/dask.py": "dask", "quantcore/torch": "torch"}
collect_ignore = [path for path, package in _NEEDS.items() if find_spec(package) is None]
