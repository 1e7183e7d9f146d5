"""What a table of speeds is recorded with, also where the system tells little."""

import json
import os
import platform

from quantcore._base import machine


def test_facts_are_those_of_this_machine():
    facts = machine.describe()
    assert facts["cpus"] == os.cpu_count() and facts["cpus_available"] >= 1
    assert facts["cpu"] and facts["architecture"] == platform.machine()
    assert json.loads(json.dumps(facts)) == facts


def test_name_of_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A CPU: fast\n\nmodel name\t: Another\n")
    assert machine.cpu_name() == "A CPU: fast"
    (tmp_path / "cpuinfo").write_text("CPU architecture: 8\n")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert machine.cpu_name() == platform.machine()
    (tmp_path / "cpuinfo").unlink()
    monkeypatch.setattr(platform, "processor", lambda: "Chip")
    assert machine.cpu_name() == "Chip"


def test_memory_is_left_out_where_it_is_not_told(monkeypatch):
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 20}.__getitem__, raising=False)
    assert machine.memory_bytes() == 1 << 32
    monkeypatch.delattr(os, "sysconf")
    assert machine.memory_bytes() is None
