"""The command line: Invoke, with our overview, help and errors."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from invoke.exceptions import Exit, ParseError
from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext
from invoke.program import Program
from invoke.tasks import Task

from .cli import report_failure
from .core import console, pins, project, values
from .core.config import Config
from .core.errors import Failure, UsageError
from .examples import EXAMPLES, FIRST

#: Headings of the overview, by the task's package.
GROUPS = {
    "": "This machine",
    "binaries": "Phase 1: binaries",
    "image": "Phase 2: image",
    "validation": "Phase 3: validation",
    "packages": "Phase 4: packages",
    "release": "Phase 4: release",
    "upstream": "Phase 4: upstream and pins",
    "machine": "Emulated machines and boards",
    "benchmarks": "Benchmarks",
}
#: Former names of tasks and flags, accepted until the next release.
RENAMED = {
    "--against": "--baseline",
    "certs": "create-certs",
    "report-build": "notify-build",
    "source.show": "pins.show",
    "source.update": "pins.update",
    "source.update-go": "pins.update-go",
    "--via": "--method",
}
_HELP = {"-h", "--help"}
_WIDTH = 78


def version() -> str:
    """This project's version, and the pinned release of BuildKit."""
    ours = tomllib.loads((project.ROOT / "pyproject.toml").read_text())["project"]["version"]
    return f"buildkit-riscv64 {ours}, BuildKit {pins.load().version}"


def group(task: Task[Any]) -> str:
    """The key of :data:`GROUPS` that a task belongs to."""
    package, _, module = task.body.__module__.rpartition(".")
    return package.partition(".")[2] if package.startswith(project.PACKAGE) else package or module


def flag_help(argument: Argument) -> str:
    """A flag's help with its default."""
    text = str(argument.help or "").rstrip()
    if "Default" in text or argument.positional:
        return text
    if argument.kind is bool:
        return f"{text} Default: off."
    return f"{text} Default: {argument.default or 'none'}."


def flag_names(argument: Argument) -> str:
    """A flag's forms, the long form first."""
    names = sorted((f"--{n}" if len(n) > 1 else f"-{n}" for n in argument.names), key=len)
    value = "" if argument.kind is bool else f" {str(argument.name).upper()}"
    return ", ".join([f"{names[-1]}{value}", *names[:-1]])


def usage(name: str, arguments: Iterable[Argument]) -> str:
    """A task's usage: its positional arguments, and `[flags]` if it has any."""
    arguments = list(arguments)
    words = [str(one.name).upper() for one in arguments if one.positional]
    if any(not one.positional for one in arguments):
        words.append("[flags]")
    if name == "on":
        words.append("-- TASK|COMMAND …")
    return " ".join(["invoke", name, *words])


def nearest(word: str, known: Iterable[str]) -> str:
    """The suggestion 'did you mean …?', or an empty string where no word is similar."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {found[0]}? " if found else ""


def columns(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Rows in two columns; a long first cell has its own line."""
    width = min(max((len(left) for left, _ in rows), default=0), 28)
    for left, right in rows:
        lines = textwrap.wrap(right, max(_WIDTH - width - 4, 20)) or [""]
        if len(left) > width:
            yield f"  {left}"
        else:
            yield f"  {left:{width}}  {lines.pop(0)}".rstrip()
        yield from (f"{'':{width + 4}}{line}" for line in lines)


class CommandLine(Program):
    """Invoke's program with our errors, with examples in the help, and without short flags."""

    def core_args(self) -> list[Argument]:
        """Invoke's own flags without one-letter forms, except `-h`."""
        return [_long(one) for one in super().core_args()]

    def task_args(self) -> list[Argument]:
        """Invoke's flags for finding tasks, without one-letter forms."""
        return [_long(one) for one in super().task_args()]

    def parse_core(self, argv: list[str] | None) -> None:
        """Parse the flags before the first task."""
        self.normalize_argv(argv)
        self._refuse_core_values(self.argv[1:])
        self._or_fail(lambda: super(CommandLine, self).parse_core(argv))

    def parse_collection(self) -> None:
        """Load the tasks and their settings."""
        self._or_fail(super().parse_collection)

    def parse_cleanup(self) -> None:
        """Execute `--list`, `--help` and similar flags."""
        self._or_fail(super().parse_cleanup)

    def parse_tasks(self) -> None:
        """Parse tasks and their flags, after a check for input that Invoke misreads."""
        self.parser = self._make_parser()
        self._rename(self.core.unparsed)
        self._look_ahead(self.core.unparsed)
        self._or_fail(super().parse_tasks)

    @staticmethod
    def _rename(words: list[str]) -> None:
        """Replace former names of tasks and flags by the current names."""
        end = words.index("--") if "--" in words else len(words)
        for index, word in enumerate(words[:end]):
            former, equals, value = word.partition("=")
            if former in RENAMED:
                console.warn(f"{former} is now called {RENAMED[former]}")
                words[index] = f"{RENAMED[former]}{equals}{value}"

    def update_config(self, merge: bool = True) -> None:  # noqa: FBT001, FBT002 - Invoke's signature
        """Read the settings from flags and variables."""
        self._or_fail(lambda: super(CommandLine, self).update_config(merge))

    def execute(self) -> None:
        """Run the tasks."""
        self._or_fail(super().execute)

    def print_version(self) -> None:
        """Print our version and the pinned release."""
        print(version())

    def no_tasks_given(self) -> None:
        """Print the overview."""
        self.print_overview()
        raise Exit

    def print_overview(self) -> None:
        """Print the first commands, and every task by phase."""
        print("BuildKit for RISC-V: built, tested and published natively.\n\nStart with:")
        print("\n".join(columns(FIRST)))
        found: dict[str, list[tuple[str, str]]] = {key: [] for key in GROUPS}
        for name in self.collection.task_names:
            task = self.collection[name]
            found[group(task)].append((name, inspect.cleandoc(task.__doc__ or "").splitlines()[0]))
        for key, rows in found.items():
            print(f"\n{GROUPS[key]}")
            print("\n".join(columns(rows)))
        print(
            "\n`invoke TASK --help` shows usage and examples; `invoke --help`, the flags of every"
            " task.\n`invoke --dry TASK` prints what a task would do, and changes nothing."
        )

    def print_task_help(self, name: str) -> None:
        """Print a task's usage, description, flags with defaults, and examples."""
        task = self.collection[name]
        arguments = task.get_arguments()
        print(f"Usage: {usage(name, arguments)}\n")
        print(inspect.cleandoc(task.__doc__ or ""))
        positional = [
            (str(one.name).upper(), flag_help(one)) for one in arguments if one.positional
        ]
        flags = [(flag_names(one), flag_help(one)) for one in arguments if not one.positional]
        for title, rows in (("Arguments", positional), ("Flags", flags)):
            if rows:
                print(f"\n{title}:")
                print("\n".join(columns(rows)))
        print("\nExamples:")
        print("\n".join(f"  {example}" for example in EXAMPLES[name]))

    def _look_ahead(self, words: Sequence[str]) -> None:
        """Refuse unknown flags and flags without their value, and print help.

        Invoke takes `--target --yes` as a target called `--yes`, a task's `--help` as the value
        of its positional argument, and `-r` after a task as Invoke's own flag.
        """
        core = self.initial_context.flags
        name, waiting, positional = "", "", 0
        context: ParserContext | None = None
        seen: set[str] = set()
        for word in words:
            if word == "--":
                break
            flag = word.partition("=")[0]
            if waiting and (flag in core or (context and flag in context.flags)):
                break
            if waiting:
                self._refuse_words(waiting, word, context)
                waiting = ""
            elif context and flag in _HELP:
                self.print_task_help(name)
                raise Exit
            elif re.fullmatch(r"-{1,2}[A-Za-z][\w-]*", flag):
                waiting = self._check_flag(word, name, context)
                if flag in seen and (waiting or "=" in word):
                    self._fail(f"{flag} is given twice", "remove one of the two")
                seen.add(flag)
            elif positional:
                positional -= 1
            elif word in self.parser.contexts:
                name, context, seen = word, self.parser.contexts[word], set()
                positional = len(context.positional_args)
        if waiting:
            self._fail(f"{waiting} needs a value", f"as in: {waiting} VALUE; {self._see(name)}")

    def _check_flag(self, word: str, name: str, context: ParserContext | None) -> str:
        """Refuse an unknown flag and a flag with an invalid value.

        Returns:
            The flag if its value is the next word, else an empty string.
        """
        core, known = self.initial_context.flags, context.flags if context else {}
        flag, equals, value = word.partition("=")
        if flag not in known and (flag not in core or flag in {"-c", "-r"}):
            guess = nearest(flag, [*known, *core])
            self._fail(f"unknown flag {flag}", f"{guess}{self._see(name)}")
        argument = known.get(flag) or core[flag]
        if equals and not argument.takes_value:
            self._fail(f"{flag} takes no value", f"remove {equals}{value}")
        if equals:
            self._refuse_words(flag, value, context)
        return flag if argument.takes_value and not argument.optional and not equals else ""

    def _refuse_core_values(self, words: Sequence[str]) -> None:
        """Refuse invalid values of Invoke's own flags, which crash Invoke."""
        numbers = {flag for flag, one in self.initial_context.flags.items() if one.kind is int}
        formats = {name.removeprefix("list_") for name in dir(self) if name.startswith("list_")}
        formats -= {"tasks"}
        for word, following in zip(words, [*words[1:], ""], strict=False):
            flag, equals, value = word.partition("=")
            value = value if equals else following
            if flag == "--":
                return
            if flag in numbers and not value.isdecimal():
                self._fail(f"{flag} {value}: not a whole number", f"as in: {flag} 2")
            if flag == "--list-format" and value not in formats:
                self._fail(
                    f"{flag} {value}: no such format", f"one of: {', '.join(sorted(formats))}"
                )

    def _refuse_words(self, flag: str, value: str, context: ParserContext | None) -> None:
        """Refuse an invalid value of a flag that takes a number."""
        argument = context.flags.get(flag) if context else None
        if argument and argument.kind is int:
            try:
                values.number(flag, value, -values.MOST, values.MOST)
            except UsageError as error:
                self._fail(error.brief, error.hint)

    def _see(self, name: str) -> str:
        return f"`invoke {name} --help` lists its flags" if name else "`invoke` lists the tasks"

    def _or_fail(self, parse: Callable[[], None]) -> None:
        try:
            parse()
        except ParseError as error:
            self._explain(error)
        except ValueError as error:  # Invoke's own flags, such as --list-depth
            self._fail(f"not a whole number: {error}", "`invoke --help` lists the flags")
        except Failure as failure:
            self._report(failure)
            raise
        except Exit as end:
            if type(end) is not Exit or not end.message:
                raise
            self._fail(end.message, "`invoke` lists the tasks")

    def _explain(self, error: ParseError) -> NoReturn:
        """Report an error of Invoke's parser as a failure of ours."""
        text = str(error)
        name = error.context.name if error.context and error.context.name else ""
        if unknown := re.match(r"No idea what '(.*)' is!$", text):
            word = unknown[1]
            guess = nearest(word, self.parser.contexts)
            if name:
                self._fail(
                    f"{word!r} is neither a task nor an argument of {name}",
                    f"{guess}usage: {usage(name, self.collection[name].get_arguments())}",
                )
            if word in self.collection.collections:
                members = [f"{word}.{one}" for one in self.collection.collections[word].task_names]
                self._fail(f"{word} is a group of tasks", f"one of: {', '.join(members)}")
            self._fail(f"no task {word!r}", f"{guess}`invoke` lists the tasks")
        if flag := re.match(r"Flag <Argument: (\S+?)[ >]", text):
            self._fail(f"--{flag[1]} needs a value", f"as in: --{flag[1]} VALUE")
        if missing := re.search(r"did not receive required positional arguments: (.*)$", text):
            required = missing[1].replace("'", "").upper()
            arguments = self.collection[name].get_arguments()
            self._fail(f"{name} needs {required}", f"usage: {usage(name, arguments)}")
        self._fail(text.replace("\n", " "), self._see(name))

    def _fail(self, brief: str, hint: str) -> NoReturn:
        failure = UsageError(brief, hint)
        console.emitted(reset=True)
        self._report(failure)
        raise failure

    def _report(self, failure: Failure) -> None:
        words = self.argv[: self.argv.index("--")] if "--" in self.argv else self.argv
        report_failure(failure, json="--json" in words)


def _long(argument: Argument) -> Argument:
    names = tuple(name for name in argument.names if len(name) > 1 or name == "h")
    argument.names = names
    return argument


program = CommandLine(
    name="Invoke", binary="invoke", binary_names=["invoke", "./invoke"], config_class=Config,
)  # fmt: skip


def main() -> None:
    """Run the command line."""
    try:
        try:
            program.run(sys.argv)
        finally:
            # Raise BrokenPipeError here, not at the end of Python.
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe. Python would report it again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
