"""What the rows share: how much of everything, new interpreters, and tests."""

import os
import subprocess
import sys

Figure = tuple[str, bool]
"""What was measured, and whether it meets its goal."""


class Scale:
    """How much of everything: full, or a tenth."""

    is_quick = False

    @classmethod
    def of(cls, count: int) -> int:
        return count // 10 if cls.is_quick else count


def python(code: str, *arguments: object, **environment: str) -> str:
    """What a new interpreter prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | environment).stdout


def tests(selection: str, **environment: str) -> tuple[bool, str]:
    """Whether the selected tests pass, and pytest's summary."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--full", *selection.split()]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    return child.returncode == 0, child.stdout.strip().split("\n")[-1].strip("= ")
