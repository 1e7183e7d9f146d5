"""Shards that several processes write: killed, interrupted or at the same time, they leave all files or none."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from quantcore.conversion import checkpoint_shards
from quantcore.conversion.checkpoint_shards import Recipe, write_part
from quantcore.errors import OutputFileError
from quantcore.files import part_folder
from quantcore.files.disk import OutputFile
from quantcore.files.part_folder import PartFolder
from tests.support.descriptors import none_opened_since, open_descriptors
from tests.support.parts import DOUBLE, Stopped, convert, expected, parts_in, stop, stop_after, write_all
from tests.support.sharded import contents_of, write_shards


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def test_two_calls_at_the_same_time(source, target):
    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        for code in ({}, DOUBLE):
            with pytest.raises(OutputFileError, match="another process is writing to this folder"):
                convert(source, target, **code)
        write_all(recipe, numbers)

    convert(source, target, run)
    assert (target / "config.json").exists() and not parts_in(target)


def test_waits_for_who_is_writing_the_shard(source, target, monkeypatch):
    """A task that was given up may still run when the call is repeated."""
    waits: list[float] = []

    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        file = OutputFile(recipe.parts.part(0))
        file.open()
        file.write(b"by another process")

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            file.__exit__(None, None, None)

        monkeypatch.setattr(part_folder.time, "sleep", sleep)
        write_part(recipe, 0, 1)
        assert recipe.parts.part(0).read_bytes() == b"by another process"
        raise Stopped

    with pytest.raises(Stopped):
        convert(source, target, run)
    assert len(waits) == 1


def test_another_process_is_faster(source, target, monkeypatch):
    real = checkpoint_shards.write_shard

    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        def write_shard(*arguments: Any) -> None:
            real(*arguments)
            recipe.parts.part(0).write_bytes(b"by another process")

        monkeypatch.setattr(checkpoint_shards, "write_shard", write_shard)
        write_part(recipe, 0, 1)
        assert recipe.parts.part(0).read_bytes() == b"by another process"
        raise Stopped

    with pytest.raises(Stopped):
        convert(source, target, run)


CALLS = ("open", "pwrite", "fsync", "link", "replace", "unlink", "mkdir", "rmdir", "lstat", "listdir")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "force"), [(call, force) for call in CALLS for force in (False, True) if force or call != "replace"]
)
def test_interrupted_at_every_system_call(call, force, source, tmp_path, monkeypatch):
    """All files or none; and whatever was left, the next call finishes it."""
    wanted = expected(source, tmp_path)
    n_stopped = 0
    for number in range(1, 400):
        target = tmp_path / str(number)
        before = {}
        if force:
            target.mkdir()
            before = dict.fromkeys(wanted, b"old")
            for name in before:
                (target / name).write_bytes(b"old")
        descriptors = open_descriptors()
        count, real = [0], getattr(os, call)

        def counting(
            *arguments: Any, real: Any = real, count: Any = count, number: int = number, **options: Any
        ) -> Any:
            if threading.current_thread() is threading.main_thread():
                count[0] += 1
                if count[0] == number:
                    raise KeyboardInterrupt
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, counting)
            try:
                convert(source, target, force=force)
            except KeyboardInterrupt:
                n_stopped += 1
        is_over = count[0] < number
        found = {name: data for name, data in contents_of(target).items() if not name.startswith(".")}
        assert found in (before, wanted), number
        assert none_opened_since(descriptors), number
        convert(source, target, force=force or found == wanted)
        assert contents_of(target) == wanted, number
        shutil.rmtree(target)
        if is_over:
            break
    assert is_over and n_stopped == number - 1 > 0


KILLED = """
import os, signal, sys
from pathlib import Path
from quantcore.conversion.checkpoint_shards import write_part
from tests.support.parts import convert

def run(recipe, numbers):
    write_part(recipe, numbers[0], 1)
    os.kill(os.getpid(), signal.SIGKILL)

convert(Path(sys.argv[1]), Path(sys.argv[2]), run)
"""


@pytest.mark.slow
def test_the_calling_process_is_killed(source, target, tmp_path):
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])}
    for n_parts in (1, 2):  # killed again, after the second part
        child = subprocess.run([sys.executable, "-c", KILLED, source, target], env=environment, cwd=root)
        assert child.returncode == -signal.SIGKILL
        assert len(parts_in(target)) == n_parts + 1
        assert [path.name for path in target.iterdir()] == [parts_in(target)[0].parent.name]
    convert(source, target)
    assert contents_of(target) == expected(source, tmp_path)


def test_what_others_left_is_removed_with_success(source, target, tmp_path):
    for code in (DOUBLE, {"block_size": 128}):
        with pytest.raises(Stopped):
            convert(source, target, stop_after(2), **code)
    assert len(parts_in(target)) == 6
    foreign = target / f".quantcore-{'0' * 32}.parts"
    foreign.mkdir(mode=0o777)
    foreign.chmod(0o777)
    convert(source, target)
    assert contents_of(target) == expected(source, tmp_path)
    assert [path.name for path in target.iterdir() if path.is_dir()] == [foreign.name]


@pytest.mark.parametrize("left", ["vanished", "cannot be locked"])
def test_others_that_cannot_be_claimed_are_passed_over(left, source, target, tmp_path, monkeypatch):
    foreign = target / f".quantcore-{'0' * 32}.parts"
    if left == "vanished":
        monkeypatch.setattr(PartFolder, "_others", lambda _: [foreign])
    else:
        foreign.mkdir(0o700, parents=True)
        (foreign / "lock").symlink_to(foreign)
    convert(source, target)
    assert contents_of(target) == expected(source, tmp_path)


@pytest.mark.parametrize("n_times", [1, 100])
def test_the_folder_is_removed_by_another_call_before_it_is_locked(n_times, source, target, tmp_path, monkeypatch):
    real, count = part_folder._lock, [0]

    def lock(folder: Path) -> int | None:
        count[0] += 1
        if count[0] <= n_times:
            folder.rmdir()
        return real(folder)

    monkeypatch.setattr(part_folder, "_lock", lock)
    if n_times == 1:
        convert(source, target)
        assert contents_of(target) == expected(source, tmp_path)
    else:
        with pytest.raises(FileNotFoundError):
            convert(source, target)
        assert not target.exists()


@pytest.mark.parametrize("problem", ["permissions", "lock"])
def test_a_folder_that_was_made_for_nothing_is_removed(problem, source, target, monkeypatch):
    def refuse(_: object) -> bool:
        if problem == "lock":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return False

    if problem == "lock":
        monkeypatch.setattr(part_folder, "_lock", refuse)
    else:
        monkeypatch.setattr(part_folder.system.SYSTEM, "is_private", refuse)
    with pytest.raises(OSError, match="does not keep permissions" if problem == "permissions" else "No space"):
        convert(source, target)
    assert not target.exists()


def test_the_lock_is_removed_last(source, target, monkeypatch):
    """Otherwise another call could take parts that are about to go for finished."""
    removed: list[str] = []
    real = os.unlink

    def unlink(path: Any, **options: Any) -> None:
        if Path(path).parent.suffix == ".parts":
            removed.append(Path(path).name)
        real(path, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    convert(source, target)
    assert removed[-5:] == ["00000", "00001", "00002", "00003", "lock"]


def test_interrupted_while_the_parts_are_removed(source, target, tmp_path, monkeypatch):
    real, count = os.rmdir, [0]

    def rmdir(path: Any, **options: Any) -> None:
        count[0] += 1
        if count[0] == 1:
            raise KeyboardInterrupt
        real(path, **options)

    monkeypatch.setattr(os, "rmdir", rmdir)
    with pytest.raises(KeyboardInterrupt):
        convert(source, target)
    assert contents_of(target) == expected(source, tmp_path)
    assert not list(target.glob(".*"))


def test_a_locked_folder_of_another_plan(source, target):
    stop(source, target, **DOUBLE)
    identity = parts_in(target)[0].parent.name.split("-")[1].partition(".")[0]
    with (
        pytest.raises(Stopped),
        PartFolder(target, identity),
    ):
        with pytest.raises(OutputFileError, match="another process is writing to this folder"):
            convert(source, target)
        raise Stopped
    convert(source, target)
    assert not parts_in(target)
