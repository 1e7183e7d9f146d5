"""Rows about what is written, and what is left when writing ends early."""

from ci.scoreboard.measuring import Figure, Scale, tests


def written_files() -> Figure:
    """Containers written from arguments that Hypothesis draws: refused by the writer, or accepted by the reader."""
    profile = "default" if Scale.is_quick else "thorough"
    selection = "tests/gguf/test_writer.py tests/safetensors/test_writer.py -k what_the_writer_writes"
    passed, summary = tests(selection, HYPOTHESIS_PROFILE=profile)
    count = 2 * (40 if Scale.is_quick else 2000)
    return f"{count:,} files, {'0 refused by the reader' if passed else summary}", passed


def kills() -> Figure:
    """Processes killed while they write a model: the old file or the new one, and nothing left over."""
    count = Scale.of(300)
    passed, summary = tests("tests/conversion/test_large.py -k killed", QUANTCORE_TEST_KILLS=str(count))
    return f"{count} kill -9, {'0 corrupt, 0 stale' if passed else summary}", passed


def full_disk() -> Figure:
    passed, summary = tests("tests/files")
    return summary, passed


def temporaries() -> Figure:
    """Names of temporaries, other people's files, file systems without locks, links or readable folders."""
    passed, summary = tests("tests/files/test_temporaries.py")
    return summary, passed


def together() -> Figure:
    """A folder of shards, interrupted at every system call and at lines in between."""
    passed, summary = tests("tests/conversion/test_folders_together.py")
    return summary, passed
