"""``jepa-arm``: one small verb for each job; ``verbs`` does what is asked for here."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from . import __version__
from .config import OPTIMIZERS, ConfigError
from .installation import lack
from .nodes import description as text
from .resources import config_names
from .verbs import benches, judging, learning, running
from .verbs.options import DEFAULT_CHECKPOINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code. Failures are one clear line."""
    parser = _parser()
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    except (ConfigError, ValueError, OSError, ImportError, RuntimeError) as error:
        if os.environ.get('JEPA_ARM_TRACEBACK'):
            raise
        told = lack(error) if isinstance(error, ModuleNotFoundError) else error
        print(f'jepa-arm {args.verb}: {told}', file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='jepa-arm', description='JEPA world-model control for robot arms on ROS 2.'
    )
    parser.add_argument('--version', action='version', version=__version__)
    parsers = parser.add_subparsers(dest='verb', required=True, metavar='VERB')
    _add_running(parsers)
    _add_learning(parsers)
    _add_exchange(parsers)
    _add_judging(parsers)
    return parser


def _add_running(parsers: Any) -> None:
    """Verbs that run the graph or look at it."""
    p = _verb(parsers, 'demo', running.demo, 'jepa-arm demo --task push --episodes 5')
    _add_common(p)
    p.add_argument('--task', default='push', help=', '.join(config_names('tasks')))
    p.add_argument('--episodes', type=_positive, default=5, help='goals to be reached')
    p.add_argument('--seed', type=int, default=500_000, help='of the first scene')
    p.add_argument('--out', default='out/demo', help='folder of the page')

    p = _verb(parsers, 'up', running.up, 'jepa-arm up --task push')
    _add_common(p)
    p.add_argument('--task', default='push', help=text.TASK_TEXT)
    p.add_argument('--seed', type=int, default=500_000, help='of the scene')
    p.add_argument('--gui', action='store_true', help='open the window of the simulator')
    named = f'{text.CONTROLLER_TEXT}: {", ".join(text.CONTROLLERS)}'
    p.add_argument('--controller', default='joint_trajectory', help=named)
    p.add_argument('--guard-config', default='', help=text.GUARD_CONFIG_TEXT)
    p.add_argument('--params-file', default='', help=text.PARAMS_TEXT)
    p.add_argument('--dry-run', action='store_true', help=text.DRY_RUN_TEXT)
    p.add_argument('--namespace', default='', help='of all nodes; then with a clock of its own')
    _add_network(p)
    p.add_argument('--no-planner', action='store_true', help='simulator and guard alone')

    p = _verb(parsers, 'reference', running.reference, 'jepa-arm reference --out docs/nodes.md')
    p.add_argument('--out', help='Markdown file; default: print')

    p = _verb(parsers, 'record', running.record, 'jepa-arm record --out run.mcap --duration 60')
    p.add_argument('topics', nargs='*', help='default: what matters of the graph')
    p.add_argument('--out', help='MCAP file to make; default: recording_<date>_<time>.mcap')
    about = 's from the first message; default: until Ctrl-C'
    p.add_argument('--duration', type=_above_zero, help=about)
    p.add_argument('--namespace', default='', help='of the running graph')
    _add_network(p)

    p = _verb(parsers, 'view', running.view, 'jepa-arm view --save run.rrd')
    p.add_argument('--arm', default='panda', help=text.ARM_TEXT)
    p.add_argument('--namespace', default='', help='of the running graph')
    _add_network(p)
    p.add_argument('--save', metavar='FILE.rrd', help='write a recording; default: open a window')

    p = _verb(parsers, 'recover', running.recover, 'jepa-arm recover a.mcap.partial --out a.mcap')
    p.add_argument('source', help='MCAP file that was cut off')
    p.add_argument('--out', required=True, help='MCAP file to make')

    p = _verb(parsers, 'doctor', running.doctor, 'jepa-arm doctor')
    _add_common(p)
    p.add_argument('--namespace', default='', help='of the running graph')
    _add_network(p)
    p.add_argument('--json', help='file for the findings')


def _add_learning(parsers: Any) -> None:
    """Verbs that make data, models and checkpoints."""
    p = _verb(parsers, 'collect', learning.collect, 'jepa-arm collect --out data/play.h5')
    p.add_argument('--arm', default='panda', help=text.ARM_TEXT)
    p.add_argument('--out', required=True, help='HDF5 file to write')
    p.add_argument('--episodes', type=_positive, default=0, help='default: config/collect.yaml')
    p.add_argument('--seed', type=int, help='default: config/collect.yaml')
    p.add_argument('--workers', type=_positive, help='processes; default: one a core')

    example = 'jepa-arm stills --data data/play.h5 --out data/stills.h5'
    p = _verb(parsers, 'stills', learning.stills, example)
    p.add_argument('--arm', default='panda', help=text.ARM_TEXT)
    p.add_argument('--data', required=True, help='HDF5 file of jepa-arm collect')
    p.add_argument('--out', required=True, help='HDF5 file to write')
    p.add_argument('--sheets', type=_positive, default=0, help='default: config/stills.yaml')
    p.add_argument('--model', default=DEFAULT_CHECKPOINT, help='config/model/MODEL.yaml')
    p.add_argument('--seed', type=int, default=0, help='of the training they are made for')
    p.add_argument('--workers', type=_positive, help='processes; default: one a core')

    example = 'jepa-arm train --data data/play.h5 --out runs/one'
    p = _verb(parsers, 'train', learning.train, example)
    p.add_argument('--data', required=True, help='HDF5 file of jepa-arm collect')
    p.add_argument('--stills', help='HDF5 file of jepa-arm stills, for the probe of the object')
    p.add_argument('--out', required=True, help='folder of metrics, state and checkpoint')
    p.add_argument('--model', default=DEFAULT_CHECKPOINT, help='config/model/MODEL.yaml')
    p.add_argument('--seed', type=int, default=0, help='of weights, windows and split')
    p.add_argument('--steps', type=_positive, default=0, help='default: config/model')
    p.add_argument('--restart', action='store_true', help='do not resume')
    p.add_argument('--no-heads', action='store_true', help='the world model and probes only')
    p.add_argument('--curves', action='store_true', help='write OUT/tensorboard as it goes')

    p = _verb(parsers, 'model', learning.model, 'jepa-arm model --out runs/model')
    p.add_argument('--arm', default='panda', help=text.ARM_TEXT)
    p.add_argument('--out', default='runs/model', help='folder of data, state and checkpoint')
    p.add_argument('--seed', type=int, default=0, help='of the training')

    for name in ('probes', 'heads', 'pose', 'belief', 'decoder'):
        example = f'jepa-arm {name} --data data/play.h5'
        p = _verb(parsers, name, getattr(learning, name), example)
        p.add_argument('--checkpoint', default=DEFAULT_CHECKPOINT, help=text.CHECKPOINT_TEXT)
        p.add_argument('--data', default='data/play.h5', help='HDF5 file of jepa-arm collect')
        p.add_argument('--model', default=DEFAULT_CHECKPOINT, help='config/model/MODEL.yaml')
        p.add_argument('--seed', type=int, default=0, help='of weights and of what is drawn')
        if name == 'probes':
            text_of_labels = 'frames that tell where the object is (default: config/model)'
            p.add_argument('--labels', type=_positive, default=0, help=text_of_labels)
            p.add_argument('--stills', help='HDF5 file of jepa-arm stills')
        if name == 'decoder':
            p.add_argument('--out', default='out/imagined.html', help='page of film strips')

    p = _verb(parsers, 'ablate', learning.ablate, 'jepa-arm ablate --data data/play.h5')
    p.add_argument('--arm', default='panda', help=text.ARM_TEXT)
    p.add_argument('--data', default='data/play.h5', help='HDF5 file of jepa-arm collect')
    p.add_argument('--out', default='runs/ablation', help='folder of the results, one file a run')
    p.add_argument('--rows', default='ablation.yaml', help='config/ROWS, or an absolute path')
    p.add_argument('--only', nargs='+', default=[], metavar='ROW', help='names of rows')
    p.add_argument('--table', action='store_true', help='show what is there, run nothing')


def _add_exchange(parsers: Any) -> None:
    """Verbs that read and write checkpoints of LeWorldModel's authors."""
    p = _verb(parsers, 'import', learning.import_, 'jepa-arm import lewm-pusht --out models/pusht')
    p.add_argument('source', help='folder with weights.pt and config.json, or the .pt file')
    p.add_argument('--out', required=True, help='folder to make')

    p = _verb(parsers, 'export', learning.export, 'jepa-arm export models/pusht --out lewm-pusht')
    p.add_argument('checkpoint', help='folder of an imported or trained LeWorldModel')
    p.add_argument('--out', required=True, help='folder to make')
    p.add_argument(
        '--transformers',
        type=int,
        choices=(4, 5),
        default=4,
        help="whose names the encoder's tensors get; the released files have those of 4",
    )


def _add_judging(parsers: Any) -> None:
    """Verbs that measure, and those that break things on purpose."""
    example = 'jepa-arm eval --task push --episodes 100 --seed 0'
    _add_eval(_verb(parsers, 'eval', judging.evaluate, example))

    p = _verb(parsers, 'surprise', judging.surprise, 'jepa-arm surprise --episodes 50 --seed 0')
    _add_common(p)
    p.add_argument('--episodes', type=_positive, default=50, help='of each anomaly')
    p.add_argument('--seed', type=int, default=0, help='scenes have seeds 1000000 + SEED + i')
    p.add_argument('--json', help='file for the report')

    p = _verb(parsers, 'replay', judging.replay, 'jepa-arm replay run.mcap --compare')
    p.add_argument('file', help='MCAP file of jepa-arm record')
    p.add_argument('--arm', default='panda', help=text.ARM_TEXT)
    p.add_argument('--checkpoint', help='a shipped name or a folder; default: as recorded')
    p.add_argument('--planner-config', help='config/FILE, or a path; default: as recorded')
    p.add_argument('--seed', type=int, help='of the search; default: as recorded')
    p.add_argument('--speed', type=_above_zero, help='times the recorded one; default: no waiting')
    p.add_argument('--namespace', help='of the graph, where the file holds several')
    p.add_argument('--compare', action='store_true', help='fail if the planners differ')
    p.add_argument('--tolerance-cm', type=float, default=0.1, help='at the tip, of one decision')
    p.add_argument('--min-equal', type=float, default=0.95, help='share of equal decisions')
    p.add_argument('--json', help='file for the report')

    _add_benches(_verb(parsers, 'bench', benches.bench, 'jepa-arm bench plan --json plan.json'))

    p = _verb(parsers, 'faults', judging.faults, 'jepa-arm faults --only planner_killed')
    _add_common(p)
    p.add_argument('--only', nargs='+', default=[], metavar='ROW', help='names or numbers')
    p.add_argument('--list', action='store_true', help='show the rows and what must happen')
    p.add_argument('--json', help='file for the report')
    p.add_argument('--html', help='file for a page with the table')

    p = _verb(parsers, 'fuzz', judging.fuzz, 'jepa-arm fuzz core --count 1000000 --seed 0')
    _add_common(p)
    p.add_argument('what', choices=('core', 'ros'))
    p.add_argument('--count', type=_positive, help='messages; default: 1000000, over ROS 100000')
    p.add_argument('--seed', type=int, default=0, help='of the first episode')
    p.add_argument('--workers', type=_positive, default=1, help='processes, of core only')
    p.add_argument('--json', help='file for the report')

    p = _verb(parsers, 'soak', judging.soak, 'jepa-arm soak --minutes 20 --json soak.json')
    _add_common(p)
    p.add_argument('--minutes', type=float, default=20.0, help='how long')
    p.add_argument('--hours', type=float, help='in place of --minutes')
    p.add_argument('--seed', type=int, default=0, help='of goals and faults')
    p.add_argument('--together', type=_positive, default=1, help='faults at a time')
    p.add_argument('--json', help='file for the report')


def _add_eval(p: argparse.ArgumentParser) -> None:
    _add_common(p)
    p.add_argument('--task', required=True, help='config/tasks/<task>.yaml')
    p.add_argument('--episodes', type=_positive, default=100, help='scenes')
    p.add_argument('--seed', type=int, default=0, help='scenes have seeds 1000000 + SEED + i')
    planners = (*OPTIMIZERS, *judging.POLICIES)
    about = 'default: config/planner.yaml; random and scripted need no checkpoint'
    p.add_argument('--planner', choices=planners, help=about)
    p.add_argument('--no-deadline', action='store_true', help='make all sweeps, however long')
    p.add_argument('--tolerance-cm', type=float, help='default: the task')
    p.add_argument('--ros', action='store_true', help='through the real nodes')
    p.add_argument(
        '--blackout',
        nargs=2,
        metavar=('FROM', 'FOR'),
        help='s of each episode without images, in process; FROM 50%%: when half of the way to '
        'the goal is done; FOR 0: until its end',
    )
    about = 'ms from each image to the guard, simulated, in process'
    p.add_argument('--delay', type=float, default=0.0, help=about)
    about = 'with --delay: the planner takes no account of it'
    p.add_argument('--unknown-delay', action='store_true', help=about)
    p.add_argument('--no-baselines', action='store_true', help='skip floor and ceiling')
    p.add_argument('--json', help='file for the report')
    p.add_argument('--html', help='folder for a page with an animation per episode')


def _add_benches(parser: argparse.ArgumentParser) -> None:
    """What ``jepa-arm bench`` measures."""
    parsers = parser.add_subparsers(dest='what', required=True, metavar='WHAT')
    for what, run in (
        ('plan', benches.bench),
        ('stages', benches.bench),
        ('encode', benches.bench),
        ('sim', benches.bench),
        ('ros', benches.bench),
        ('energy', benches.energy),
        ('peers', benches.peers),
    ):
        p = _verb(parsers, what, run, f'jepa-arm bench {what} --json {what}.json')
        _add_common(p)
        p.add_argument('--json', help='file for the figures')
        if what in ('plan', 'energy'):
            p.add_argument('--planner', choices=OPTIMIZERS, help='default: config/planner.yaml')
        if what in ('peers', 'energy'):
            p.add_argument('--episodes', type=_positive, default=20, help='scenes of each task')
            p.add_argument('--seed', type=int, default=0, help='scenes: 1000000 + SEED + i')
        if what == 'peers':
            p.add_argument('--task', nargs='+', default=['reach', 'push'], help='which')
            p.add_argument('--only', nargs='+', default=[], metavar='NAME', help='of planners')
            p.add_argument('--list', action='store_true', help='show the planners, run nothing')
            p.add_argument('--table', action='store_true', help='show what is there, run nothing')
            p.add_argument('--out', default='runs/peers', help='folder of results and table')


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_plain = action.default in (None, '', False, [])
        return action.help if is_plain else super()._get_help_string(action)


def _verb(parsers: Any, name: str, run: Any, example: str) -> argparse.ArgumentParser:
    about = (run.__doc__ or '').strip().splitlines()[0]
    parser = parsers.add_parser(
        name,
        help=about,
        description=about,
        epilog=f'example: {example}',
        formatter_class=_Help,
    )
    parser.set_defaults(run=run)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--arm', default='panda', help=text.ARM_TEXT)
    parser.add_argument('--checkpoint', default=DEFAULT_CHECKPOINT, help=text.CHECKPOINT_TEXT)


def _add_network(parser: argparse.ArgumentParser) -> None:
    about = '0 to 232; default: ROS_DOMAIN_ID'
    parser.add_argument('--domain-id', type=int, metavar='N', help=about)
    about = 'LOCALHOST, SUBNET or SYSTEM_DEFAULT; default: this machine only, unless set outside'
    parser.add_argument('--discovery-range', metavar='RANGE', help=about)


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'expected a finite number > 0, got {text}')
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'expected a number >= 1, got {text}')
    return value
