"""A folder of shards is written whole or not at all, wherever a conversion is stopped."""

import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore.conversion import checkpoint_plan
from quantcore.conversion.to_bitsandbytes import quantize_checkpoint
from quantcore.errors import OutputFileError
from quantcore.files import disk
from quantcore.safetensors.reader import INDEX_NAME
from tests.support.descriptors import none_opened_since, open_descriptors

SHARDS = tuple(f"model-{i}-of-3.safetensors" for i in (1, 2, 3))
NAMES = {*SHARDS, INDEX_NAME, "config.json"}
CALLS = ("open", "pwrite", "fsync", "link", "replace", "rename", "unlink", "mkdir", "rmdir")
CHANGES = ("fsync", "link", "replace", "rename", "unlink")
"""Calls that may be interrupted after they have worked; what `open` returned would be lost."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    weight_map = {}
    for i, shard in enumerate(SHARDS):
        values = np.random.default_rng(i).standard_normal((8, 64)).astype(np.float32)
        save_file({f"layers.{i}.weight": values}, folder / shard)
        weight_map[f"layers.{i}.weight"] = shard
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def written(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a conversion that is not stopped writes."""
    folder = tmp_path_factory.mktemp("written") / "out"
    quantize_checkpoint(source, folder, "nf4", n_threads=1)
    contents = contents_of(folder)
    assert contents.keys() == NAMES
    return contents


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def old_files(folder: Path) -> dict[str, bytes]:
    """All the outputs of an earlier conversion but one."""
    folder.mkdir()
    for name in NAMES - {SHARDS[1]}:
        (folder / name).write_bytes(b"old " + name.encode())
    return contents_of(folder)


def interrupt(call: str, number: int, *, after: bool, patch: pytest.MonkeyPatch) -> list[int]:
    """Raise KeyboardInterrupt at a system call of the main thread, before or after it has done its work."""
    real, count = getattr(os, call), [0]

    def counting(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return real(*arguments, **options)
        count[0] += 1
        if count[0] != number:
            return real(*arguments, **options)
        if after:
            real(*arguments, **options)
        raise KeyboardInterrupt

    patch.setattr(os, call, counting)
    return count


@pytest.mark.parametrize("has_links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("force", [False, True], ids=["new", "force"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", CALLS)
def test_interrupted_at_every_system_call(call, after, force, has_links, source, written, tmp_path, monkeypatch):
    after &= call in CHANGES
    before: dict[str, bytes] = {}
    n_stopped = 0
    for number in range(1, 100):
        folder = tmp_path / str(number) / "out"
        folder.parent.mkdir()
        if force:
            before = old_files(folder)
        descriptors = open_descriptors()
        with monkeypatch.context() as patch:
            if not has_links and call != "link":
                patch.setattr(os, "link", no_links)
            count = interrupt(call, number, after=after, patch=patch)
            try:
                quantize_checkpoint(source, folder, "nf4", force=force, n_threads=1)
            except KeyboardInterrupt:
                n_stopped += 1
            is_over = count[0] < number
        # Interrupted when the names of the old files are removed, it is done.
        after_it = contents_of(folder)
        assert after_it == (written if is_over or (force and after_it == written) else before), number
        assert folder.exists() == bool(after_it)
        assert none_opened_since(descriptors), number
        if is_over:
            break
    assert is_over and n_stopped == number - 1


def no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


TRACED = {
    module.__file__
    for module in (
        disk,
        checkpoint_plan,
        sys.modules["quantcore.files.temporaries"],
        sys.modules[quantize_checkpoint.__module__],
    )
}


def interrupt_line(number: int) -> tuple[Callable[..., Any], list[int]]:
    """A trace function that raises KeyboardInterrupt before the line of this number, as a signal handler may."""
    count = [0]

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            count[0] += 1
            if count[0] == number:
                raise KeyboardInterrupt
        return trace

    return trace, count


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True])
def test_interrupted_at_every_line_while_names_are_given(force, source, written, tmp_path, monkeypatch, rng):
    """From the first complete file to the end of the call, each tenth line."""
    before: dict[str, bytes] = {}
    outcomes = {"before": 0, "written": 0}
    real_complete = disk.OutputFile.complete
    number, is_over = int(rng.integers(-9, 1)), False
    while not is_over:
        number += 10
        folder = tmp_path / str(number)
        if force:
            before = old_files(folder)
        trace, count = interrupt_line(number)

        def complete(file: disk.OutputFile, trace: Any = trace) -> None:
            if sys.gettrace() is not trace:
                frame = sys._getframe(1)
                while frame is not None:  # what is under way is traced too
                    frame.f_trace = trace if frame.f_code.co_filename in TRACED else None
                    frame = frame.f_back
                sys.settrace(trace)
            real_complete(file)

        former = sys.gettrace()
        monkeypatch.setattr(disk.OutputFile, "complete", complete)
        try:
            quantize_checkpoint(source, folder, "nf4", force=force, n_threads=1)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(former)
        is_over = count[0] < number
        contents = {name: data for name, data in contents_of(folder).items() if name in NAMES}
        assert contents in (before, written), number
        outcomes["written" if contents == written else "before"] += 1
    assert number > 200 and min(outcomes.values()) > 1


@pytest.mark.parametrize("shard", [*SHARDS, INDEX_NAME, "config.json"])
@pytest.mark.parametrize("has_links", [True, False])
def test_an_output_that_appears_meanwhile(has_links, shard, source, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:  # all files are complete
        (folder / shard).write_bytes(b"theirs")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputFileError, match=f"{shard}: appeared while"):
        quantize_checkpoint(source, folder, "nf4")
    assert contents_of(folder) == {shard: b"theirs"}


def test_a_signal_when_the_second_name_appears(source, tmp_path, monkeypatch):
    real_link = os.link

    def link(partial: Path, path: Path, **options: Any) -> None:
        real_link(partial, path, **options)
        if path.name == SHARDS[1]:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(source, tmp_path / "out", "nf4")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_while_files_are_withdrawn(source, tmp_path, monkeypatch):
    """The second Ctrl-C does not stop what the first one began."""
    real_unlink, real_fsync = os.unlink, os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # all have their names
            monkeypatch.setattr(os, "unlink", unlink())
            raise KeyboardInterrupt
        real_fsync(descriptor)

    def unlink() -> Callable[..., None]:
        calls: Iterator[int] = iter(range(10**9))

        def interrupted(*arguments: Any, **options: Any) -> None:
            if next(calls) % 2 == 0:
                raise KeyboardInterrupt
            real_unlink(*arguments, **options)

        return interrupted

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(source, tmp_path / "out", "nf4")
    assert not (tmp_path / "out").exists()


def test_somebody_elses_file_is_not_withdrawn(source, tmp_path, monkeypatch):
    folder, real_fsync = tmp_path / "out", os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            (folder / SHARDS[0]).unlink()
            (folder / SHARDS[0]).write_bytes(b"theirs")
            raise KeyboardInterrupt
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(source, folder, "nf4")
    assert contents_of(folder) == {SHARDS[0]: b"theirs"}


def test_two_outputs_of_one_name_are_refused(source, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / SHARDS[1]).symlink_to(SHARDS[0])
    with pytest.raises(OutputFileError, match="two outputs would be written to it"):
        quantize_checkpoint(source, folder, "nf4", force=True)
    assert {path.name for path in folder.iterdir()} == {SHARDS[1]}


def test_an_old_file_that_cannot_be_put_back_is_kept(source, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    before = old_files(folder)
    real_replace, n_calls = os.replace, [0]

    def replace(partial: Path, path: Path) -> None:
        n_calls[0] += 1
        if n_calls[0] > 2:  # neither the third file nor, afterwards, any of the old ones
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real_replace(partial, path)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match=SHARDS[2]):
        quantize_checkpoint(source, folder, "nf4", force=True)
    (kept,) = folder.glob(".*.replaced")
    assert kept.read_bytes() == before[SHARDS[0]]
    assert (folder / SHARDS[2]).read_bytes() == before[SHARDS[2]] and not (folder / SHARDS[1]).exists()
