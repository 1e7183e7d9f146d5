"""Shards that several processes write: the files of one process, together or none; nothing is done twice or trusted.

The processes are calls of this one here, except where one has to be killed; `tests/dask` has a cluster.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore._base.patterns import compile_patterns
from quantcore.conversion import checkpoint_shards, quantize_checkpoint
from quantcore.conversion.checkpoint_shards import Recipe, quantize_apart, write_part
from quantcore.conversion.four_bit_plan import FourBitCode
from quantcore.conversion.options import ConversionOptions
from quantcore.errors import FileFormatError, InvalidValueError, OutputFileError
from quantcore.files import part_folder
from quantcore.files.disk import OutputFile
from quantcore.files.part_folder import PartFolder
from tests.support.descriptors import none_opened_since, open_descriptors
from tests.support.sharded import contents_of, write_shards

DOUBLE = {"double_quant": True, "quant_type": "nf4"}


class Stopped(Exception):
    """What stops a run."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def write_all(recipe: Recipe, numbers: Sequence[int]) -> None:
    for number in reversed(numbers):
        write_part(recipe, number, 1)


def stop_after(n_shards: int) -> Callable[[Recipe, Sequence[int]], None]:
    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        write_all(recipe, numbers[:n_shards])
        raise Stopped

    return run


def convert(source: Path, target: Path, run: Any = write_all, *, force: bool = False, **code: Any) -> Any:
    options = ConversionOptions(target, force, False, 1, None)
    settings = {"quant_type": "nf4", "block_size": 64, "double_quant": False, "quant_storage": "uint8"} | code
    return quantize_apart(source, options, FourBitCode(**settings), compile_patterns((), "exclude"), None, run)


def expected(source: Path, tmp_path: Path, **code: Any) -> dict[str, bytes]:
    """The files of one process."""
    folder = tmp_path / "expected"
    quantize_checkpoint(source, folder, **({"quant_type": "nf4"} | code))
    return contents_of(folder)


def parts_in(target: Path) -> list[Path]:
    return sorted(path for folder in target.glob(".quantcore-*.parts") for path in folder.iterdir())


def stop(source: Path, target: Path, n_shards: int = 2, **options: Any) -> dict[str, tuple[int, int]]:
    """A conversion that stops after some shards; which files these are."""
    with pytest.raises(Stopped):
        convert(source, target, stop_after(n_shards), **options)
    names = [path.name for path in parts_in(target)]
    assert names == [*(f"{i:05d}" for i in range(n_shards)), "lock"] if n_shards else not target.exists()
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in parts_in(target)[:-1]}


@pytest.mark.parametrize("code", [{}, DOUBLE | {"block_size": 128}, {"quant_type": "fp4", "quant_storage": "bfloat16"}])
def test_the_files_of_one_process(code, source, target, tmp_path):
    report = convert(source, target, **code)
    assert contents_of(target) == expected(source, tmp_path, **code)
    assert report == quantize_checkpoint(source, tmp_path / "again", **({"quant_type": "nf4"} | code))


def test_a_single_file_becomes_a_folder(source, target, tmp_path):
    shard = next(source.glob("*.safetensors"))
    convert(shard, target)
    assert contents_of(target) == expected(shard, tmp_path)
    with pytest.raises(OutputFileError, match=r"expected a folder; one file is written by one process"):
        convert(shard, tmp_path / "one.safetensors")
    assert not (tmp_path / "one.safetensors").exists()


@pytest.mark.parametrize("n_shards", [0, 1, 4])
def test_goes_on_where_it_stopped(n_shards, source, target, tmp_path):
    before = stop(source, target, n_shards)
    assert not [name for name in contents_of(target) if not name.startswith(".")]
    done: list[int] = []

    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        done.extend(numbers)
        write_all(recipe, numbers)

    convert(source, target, run)
    assert done == list(range(n_shards, 4))
    assert contents_of(target) == expected(source, tmp_path)
    shards = sorted(target.glob("*.safetensors"))
    found = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in shards]
    assert found[:n_shards] == list(before.values())


@pytest.mark.parametrize("change", ["values", "time", "config", "code", "version", "layout"])
def test_parts_of_another_plan_are_not_taken(change, source, target, tmp_path, monkeypatch):
    stop(source, target, 3)
    shard, code = sorted(source.glob("*.safetensors"))[1], {}
    status = shard.stat()
    if change == "values":  # the sizes, the header and, as far as the clock is coarse, the time stay
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
        os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "time":
        os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns - 1))
    elif change == "config":
        (source / "config.json").write_text('{"some": "thing"}')
    elif change == "code":
        code = DOUBLE
    elif change == "version":
        monkeypatch.setattr(checkpoint_shards, "__version__", "0.0.1")
    else:
        (source / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    done: list[int] = []

    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        done.extend(numbers)
        write_all(recipe, numbers)

    convert(source, target, run, **code)
    assert done == [0, 1, 2, 3]
    assert contents_of(target) == expected(source, tmp_path, **code)


def spoil_nothing(path: Path) -> None:
    path.unlink()


def spoil_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def spoil_tensors(path: Path) -> None:
    path.unlink()
    save_file({"other": np.zeros(4, np.float32)}, path, {"format": "pt"})


def spoil_kind(path: Path) -> None:
    path.rename(path.parent.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent.parent / "elsewhere")


@pytest.mark.parametrize("spoil", [spoil_nothing, spoil_bytes, spoil_tensors, spoil_kind])
def test_a_part_that_is_not_what_it_should_be_is_written_anew(spoil, source, target, tmp_path):
    stop(source, target, 3)
    spoil(parts_in(target)[1])
    done: list[int] = []

    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        done.extend(numbers)
        write_all(recipe, numbers)

    convert(source, target, run)
    assert done == [1, 3]
    assert contents_of(target) == expected(source, tmp_path)


def open_to_others(folder: Path) -> None:
    folder.chmod(0o770)


def become_a_link(folder: Path) -> None:
    folder.rename(folder.parent.parent / "elsewhere")
    folder.symlink_to(folder.parent.parent / "elsewhere")


def become_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"")


@pytest.mark.parametrize("spoil", [open_to_others, become_a_link, become_a_file])
def test_a_folder_that_others_may_have_filled_is_refused(spoil, source, target):
    stop(source, target)
    (folder,) = target.glob(".quantcore-*")
    spoil(folder)
    with pytest.raises(OutputFileError, match=r"\.parts: is not a folder of this user that nobody else can write"):
        convert(source, target)
    assert [path.name for path in target.iterdir()] == [folder.name]


@pytest.mark.parametrize("moment", ["before", "while", "after"])
def test_a_source_that_changes(moment, source, target, monkeypatch):
    shard = sorted(source.glob("*.safetensors"))[2]
    real = checkpoint_shards.write_shard

    def touch(*_: object) -> None:
        os.utime(shard, ns=(0, 0))

    def write_shard(*arguments: Any) -> None:
        real(*arguments)
        touch()

    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        if moment == "before":
            touch()
        write_all(recipe, numbers)
        touch()

    if moment == "while":
        monkeypatch.setattr(checkpoint_shards, "write_shard", write_shard)
    with pytest.raises(FileFormatError, match="changed since the conversion was planned"):
        convert(source, target, run)
    if moment == "after":
        assert [path.name for path in parts_in(target)] == ["00000", "00001", "00002", "00003", "lock"]
    else:
        assert not target.exists()


def test_another_version_in_the_other_process(source, target, monkeypatch):
    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        monkeypatch.setattr(checkpoint_shards, "__version__", "0.0.1")
        write_all(recipe, numbers)

    with pytest.raises(FileFormatError, match="planned by another version of quantcore than"):
        convert(source, target, run)


def test_bad_values_leave_nothing(source, target):
    name = "model-00001-of-00004.safetensors"
    save_file({"layers.0.weight": np.full((64, 256), np.nan, np.float32)}, source / name)
    index = json.loads((source / "model.safetensors.index.json").read_text())
    del index["weight_map"]["layers.0.bias"]
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidValueError, match=r"layers\.0\.weight"):
        convert(source, target, lambda recipe, numbers: write_part(recipe, 0, 1))
    assert not target.exists()


def test_an_output_that_appears_meanwhile(source, target, tmp_path):
    theirs = target / "model-00003-of-00004.safetensors"

    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        write_all(recipe, numbers)
        theirs.write_bytes(b"theirs")

    with pytest.raises(OutputFileError, match="exists already"):
        convert(source, target, run)
    assert {path.name for path in target.iterdir()} == {theirs.name, parts_in(target)[0].parent.name}
    assert theirs.read_bytes() == b"theirs" and len(parts_in(target)) == 5
    with pytest.raises(OutputFileError, match="exists already"):
        convert(source, target)
    convert(source, target, Stopped, force=True)  # there is nothing left to run
    assert contents_of(target) == expected(source, tmp_path)


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


def test_without_hard_links(source, target, tmp_path, monkeypatch):
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    stop(source, target)
    convert(source, target)
    assert contents_of(target) == expected(source, tmp_path)


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
from tests.conversion.test_checkpoint_shards import Path, convert, write_part

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


@pytest.mark.parametrize("kind", [os.fsencode, str])
def test_paths_of_other_types(kind, source, target, tmp_path):
    convert(kind(source), kind(target))
    assert contents_of(target) == expected(source, tmp_path)


def test_only_the_header_of_a_shard_identifies_it(source, target, tmp_path, monkeypatch):
    """Whatever it is called: tensors may be larger than the memory."""
    shard = next(source.glob("*.safetensors")).rename(tmp_path / "model.st")
    read = checkpoint_shards.InputFile.read
    sizes: list[int] = []

    def reading(file: Any, offset: int, count: int) -> Any:
        sizes.append(count)
        return read(file, offset, count)

    monkeypatch.setattr(checkpoint_shards.InputFile, "read", reading)
    convert(shard, target)
    assert 8 < max(sizes) < 4096 < shard.stat().st_size
    assert contents_of(target) == expected(shard, tmp_path)


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
