"""Command line: ``jepa-arm`` and the verbs that modules register with it."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any

from jepa_arm import __version__
from jepa_arm.core.errors import JepaArmError
from jepa_arm.core.installation import describe_missing_module

from . import data, judge, learn, look, run

VERBS = (run, judge, learn, data, look)
EXTENSIONS = 'jepa_arm.verbs'
"""Entry-point group with which other packages register verbs."""
GROUPS = {
    'run': 'Run the robot',
    'judge': 'Judge what it does',
    'learn': 'Learn a model',
    'look': 'Look inside',
    'break': 'Break it on purpose',
}
FAMILIES = {
    'bench': ('judge', 'Measure speed, energy, and other planners.'),
    'data': ('learn', 'Make and repair data files.'),
    'fuzz': ('break', 'Send hostile messages to the guard or to the graph; fail on any harm.'),
}
"""Verbs with subverbs, as in ``bench plan``: their group and description."""
TRACEBACK = 'JEPA_ARM_TRACEBACK'

Run = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code.

    Errors that a user can act on are printed as one line on stderr, with exit code 1. Any other
    exception is a bug and keeps its traceback.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    args = CommandLine().parser.parse_args(words)
    args.command = shlex.join(['jepa-arm', *words])
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    except (JepaArmError, OSError, ModuleNotFoundError) as error:
        if args.traceback or os.environ.get(TRACEBACK):
            raise
        is_missing = isinstance(error, ModuleNotFoundError)
        message = describe_missing_module(error) if is_missing else error
        print(f'jepa-arm {args.verb}: {message}', file=sys.stderr)
        return 1


class CommandLine:
    """Parser of ``jepa-arm`` with the verbs of this package and of installed extensions.

    Attributes:
        parser: the complete parser.
        examples: one typical command per verb, as shown by its ``--help``.
    """

    def __init__(self) -> None:
        self.parser = argparse.ArgumentParser(
            prog='jepa-arm',
            description='JEPA world-model control for robot arms on ROS 2.',
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.parser.add_argument('--version', action='version', version=__version__)
        about = f'show the whole traceback of an error (also {TRACEBACK}=1)'
        self.parser.add_argument('--traceback', action='store_true', help=about)
        self.examples: list[str] = []
        self._verbs = self.parser.add_subparsers(
            dest='verb', required=True, metavar='VERB', help=argparse.SUPPRESS
        )
        self._listed: dict[str, dict[str, str]] = {group: {} for group in GROUPS}
        self._families: dict[str, Any] = {}
        for module in VERBS:
            module.add_verbs(self.register)
        for extension in sorted(entry_points(group=EXTENSIONS), key=lambda e: e.name):
            extension.load()(self.register)
        self.parser.epilog = self._list_verbs()

    def register(
        self, group: str, name: str, run: Run, example: str, help: str = ''
    ) -> argparse.ArgumentParser:
        """Add a verb and return its parser, to which the caller adds the options.

        Args:
            group: a key of ``GROUPS``; for a subverb its verb, a key of ``FAMILIES``.
            name: the verb.
            run: function that takes the parsed arguments and returns the exit code.
            example: a typical command, shown by ``--help``.
            help: one sentence; if empty, the first line of the docstring of ``run``.
        """
        about = help or (run.__doc__ or '').strip().splitlines()[0]
        shown: dict[str, Any]
        if group in FAMILIES:
            parent, shown = self._family(group), {'help': about}
        else:
            parent, shown = self._verbs, {}
            self._listed[group][name] = about
        parser = parent.add_parser(
            name,
            description=about,
            epilog=f'example: {example}',
            formatter_class=_HelpFormatter,
            **shown,
        )
        parser.set_defaults(run=run)
        self.examples.append(example)
        return parser

    def _family(self, name: str) -> Any:
        """Return the subparsers of the verb ``name``, which the first call adds."""
        if name not in self._families:
            group, about = FAMILIES[name]
            parser = self._verbs.add_parser(name, description=about)
            settings = {'dest': 'subverb', 'required': True, 'metavar': 'VERB'}
            self._families[name] = parser.add_subparsers(**settings)
            self._listed[group][name] = about
        return self._families[name]

    def _list_verbs(self) -> str:
        width = max(len(name) for verbs in self._listed.values() for name in verbs)
        lines = []
        for group, title in GROUPS.items():
            if self._listed[group]:
                lines.append(f'{title}:')
                lines += [f'  {n:{width}}  {about}' for n, about in self._listed[group].items()]
        return '\n'.join([*lines, '', 'jepa-arm VERB --help shows the options and an example.'])


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help formatter that shows defaults, except empty and False ones."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_plain = action.default in (None, '', False, [])
        return action.help if is_plain else super()._get_help_string(action)
