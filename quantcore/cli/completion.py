"""`completion`: scripts by which bash, zsh and fish complete the commands, their flags and the names of types.

The scripts are made from the parsers themselves (`parser_facts`), so that a new flag needs no line here.
"""

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from quantcore.cli.arguments import PROGRAM, add_parser
from quantcore.cli.parser_facts import Command, Flag, walk
from quantcore.cli.terminal import show


def add_completion(commands: Any) -> None:
    """Add the parser of `completion`."""
    parser = add_parser(
        commands,
        "completion",
        "print a script that completes commands, flags and types in a shell",
        f"{PROGRAM} completion bash",
    )
    parser.add_argument(
        "shell", choices=SHELLS,
        help=f'eval "$({PROGRAM} completion bash)" in ~/.bashrc; the same with zsh in ~/.zshrc, below compinit; '
        f"fish: write the script to ~/.config/fish/completions/{PROGRAM}.fish",
    )  # fmt: skip
    parser.set_defaults(command=_completion, commands=commands)


def _completion(options: argparse.Namespace) -> int:
    show(SHELLS[options.shell](list(walk(options.commands))), end="")
    return 0


def _bash(commands: list[Command]) -> str:
    steps, facts, values = [], [], []
    for command in commands:
        steps += [
            f'        "{command.name} {child}") command="{f"{command.name} {child}".strip()}" ;;'
            for child in command.children
        ]
        flags = " ".join(name for flag in command.flags for name in flag.names)
        facts.append(
            f'        "{command.name}") flags="{flags}" words="{" ".join([*command.children, *command.words])}"'
            f"{' files=1' if command.takes_files else ''} ;;"
        )
        for flag in command.flags:
            if flag.takes_value:
                cases = "|".join(f'"{command.name} {name}"' for name in flag.names)
                files = "" if flag.words else "1"
                values.append(f'        {cases}) words="{" ".join(flag.words)}" flags= files={files} ;;')
    return f"""\
# Completion of {PROGRAM} for bash: eval "$({PROGRAM} completion bash)"
_{PROGRAM}() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} command= flags= words= files= i
    [[ $word == = ]] && word=  # bash makes three words of --flag=value
    [[ $before == = ]] && before=${{COMP_WORDS[COMP_CWORD - 2]}}
    local IFS=$' \\t\\n'
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$command ${{COMP_WORDS[i]}}" in
{_indent(steps)}
        esac
    done
    case "$command" in
{_lines(facts)}
    esac
    case "$command $before" in
{_lines(values)}
    esac
    [[ $word == -* ]] && words=$flags
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    if [[ $word != -* && -n $files ]]; then
        compopt -o filenames 2>/dev/null
        IFS=$'\\n'
        COMPREPLY+=($(compgen -f -- "$word"))
    fi
}}
complete -F _{PROGRAM} {PROGRAM}
"""


def _zsh(commands: list[Command]) -> str:
    top, *others = commands
    listed = "\n".join(f"        {_quoted(f'{c.name}:{c.help}')}" for c in others if " " not in c.name)
    cases = []
    for command in others:
        arguments = [_zsh_flag(flag) for flag in command.flags]
        rest = [*command.children, *command.words]
        if rest or command.takes_files:
            arguments.append(_quoted(f"*:argument:{_zsh_words(rest, files=command.takes_files)}"))
        joined = " \\\n                ".join(arguments)
        cases.append(f"        {_quoted(command.name)})\n            _arguments {joined} ;;")
    steps = [
        f"            '{command.name} {child}') command='{f'{command.name} {child}'.strip()}'; n=$i ;;"
        for command in commands
        for child in command.children
    ]
    return f"""\
#compdef {PROGRAM}
# Completion of {PROGRAM} for zsh: eval "$({PROGRAM} completion zsh)" after compinit, or a file _{PROGRAM} in $fpath
_{PROGRAM}() {{
    local command= i n=1
    local -a commands=(
{listed}
    )
    for ((i = 2; i < CURRENT; i++)); do
        case "$command ${{words[i]}}" in
{_lines(steps)}
        esac
    done
    ((CURRENT -= n - 1))
    shift $((n - 1)) words
    case "$command" in
        '')
            _describe command commands
            _arguments {" ".join(_zsh_flag(flag) for flag in top.flags)} ;;
{_lines(cases)}
    esac
}}
if [[ ${{funcstack[1]}} == _{PROGRAM} ]]; then
    _{PROGRAM} "$@"
else
    compdef _{PROGRAM} {PROGRAM}
fi
"""


def _zsh_flag(flag: Flag) -> str:
    text = flag.help.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    value = (
        f":{flag.metavar.replace(':', chr(92) + ':')}:{_zsh_words(flag.words, files=not flag.words)}"
        if flag.takes_value
        else ""
    )
    equals = "=" if value else ""
    return " ".join(_quoted(f"*{name}{equals * name.startswith('--')}[{text}]{value}") for name in flag.names)


def _zsh_words(words: Iterable[str], *, files: bool = False) -> str:
    listed = f"({' '.join(words)})"
    if not files:
        return listed
    return "_files" if listed == "()" else f'{{_alternative "words:word:{listed}" "files:file:_files"}}'


def _fish(commands: list[Command]) -> str:
    steps = [
        f"            case {_quoted(f'{command.name} {child}')}\n"
        f"                set command {_quoted(f'{command.name} {child}'.strip())}"
        for command in commands
        for child in command.children
    ]
    lines = []
    by_name = {command.name: command for command in commands}
    for command in commands:
        here = f"complete -c {PROGRAM} -n {_quoted(f'__{PROGRAM}_is {chr(34)}{command.name}{chr(34)}')}"
        if not command.takes_files:
            lines.append(f"{here} -f")
        for child in command.children:
            about = by_name[f"{command.name} {child}".strip()].help
            lines.append(f"{here} -a {child} -d {_quoted(about)}")
        if command.words:
            lines.append(f"{here} -a {_quoted(' '.join(command.words))}")
        for flag in command.flags:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names)
            value = f" -x -a {_quoted(' '.join(flag.words))}" if flag.words else " -r -F" if flag.takes_value else ""
            lines.append(f"{here} {names}{value} -d {_quoted(flag.help)}")
    return f"""\
# Completion of {PROGRAM} for fish: {PROGRAM} completion fish > ~/.config/fish/completions/{PROGRAM}.fish
function __{PROGRAM}_is
    set -l command ''
    for word in (commandline -opc)[2..]
        switch "$command $word"
{_lines(steps)}
        end
    end
    test "$command" = "$argv[1]"
end
{_lines(lines)}
"""


SHELLS: dict[str, Callable[[list[Command]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}


def _quoted(text: str) -> str:
    """In single quotes, as all three shells read them."""
    return "'" + text.replace("'", "'\\''") + "'"


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def _indent(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
