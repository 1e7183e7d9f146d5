"""zarr and numcodecs find the codecs through the entry points of the distribution, without an import of quantcore."""

import importlib
import os
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

import quantcore
from quantcore._base.extras import DISTRIBUTION

zarr = pytest.importorskip("zarr")
qz = pytest.importorskip("quantcore.zarr")

ROOT = Path(quantcore.__file__).parents[1]
EXPECTED = {
    "zarr.codecs": {"quantcore.affine": qz.AffineCodec, "quantcore.block": qz.BlockCodec},
    "numcodecs.codecs": {"quantcore.affine": qz.AffineFilter, "quantcore.block": qz.BlockFilter},
}


def declared() -> dict[str, dict[str, str]]:
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("needs the sources: pyproject.toml")
    found: dict[str, dict[str, str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    return found


def test_the_project_declares_them():
    groups = declared()
    assert {group: set(names) for group, names in groups.items()} == {g: set(names) for g, names in EXPECTED.items()}
    for group, names in groups.items():
        for name, place in names.items():
            module, _, attribute = place.partition(":")
            assert getattr(importlib.import_module(module), attribute) is EXPECTED[group][name]


@pytest.mark.may_skip
def test_what_is_installed_has_them():
    for group, names in EXPECTED.items():
        found = {e.name: e for e in entry_points(group=group) if e.name in names}
        if not found:
            pytest.skip(f"{DISTRIBUTION} is not installed, or from before")
        assert {name: entry.load() for name, entry in found.items()} == names


@pytest.mark.slow
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_process_that_does_not_import_quantcore_reads_them(zarr_format, tmp_path):
    values = np.linspace(280, 300, 64, dtype=np.float32).reshape(4, 16)
    how = {"serializer": qz.AffineCodec()} if zarr_format == 3 else {"filters": [qz.AffineFilter()]}
    array = zarr.create_array(tmp_path / "a.zarr", data=values, chunks=(4, 16), zarr_format=zarr_format, **how)
    info = tmp_path / "site" / "made_for_a_test-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-for-a-test\nVersion: 1.0\n")
    lines = [f"[{group}]\n" + "".join(f"{n} = {p}\n" for n, p in names.items()) for group, names in declared().items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    code = f"import sys, zarr; print(zarr.open_array({str(tmp_path / 'a.zarr')!r})[:].tobytes().hex())"
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (child.returncode, child.stdout.strip()) == (0, array[:].tobytes().hex()), child.stderr
