"""Verbs ``demo`` and ``up``: the graph of simulator, guard and planner."""

from __future__ import annotations

import argparse
from pathlib import Path

from jepa_arm.config import ConfigError
from jepa_arm.core.files import config_names
from jepa_arm.core.installation import how_to_get, missing_modules
from jepa_arm.ros.graph.description import ARGUMENT_HELP, SimulationGraph, with_parameter_file
from jepa_arm.ros.runtime.node_contract import CONTROLLERS

from . import options

NEXT_STEPS = """
What next?
  jepa-arm up                                  start the graph alone and send your own goals
  jepa-arm eval --task push --episodes 20      measure success by the strict protocol
  jepa-arm bench ros                           measure latencies on this machine
  make model                                   train the world model from nothing
"""


def add_verbs(register: options.Register) -> None:
    """Register ``demo`` and ``up``."""
    parser = register('run', 'demo', demo, 'jepa-arm demo --task push --episodes 5')
    options.add_robot(parser)
    parser.add_argument('--task', default='push', help=', '.join(config_names('tasks')))
    options.add_count(parser, '--episodes', 'number of goals', 5)
    parser.add_argument('--seed', type=int, default=500_000, help='seed of the first scene')
    parser.add_argument('--out', default='out/demo', help='folder of the page of animations')

    parser = register('run', 'up', up, 'jepa-arm up --task push')
    options.add_arm(parser)
    parser.add_argument('--checkpoint', help=options.OPTIONAL_CHECKPOINT)
    parser.add_argument('--task', default='push', help=ARGUMENT_HELP['task'])
    parser.add_argument('--seed', type=int, default=500_000, help='seed of the scene')
    options.add_flag(parser, '--gui', 'open the window of the simulator')
    about = f'{ARGUMENT_HELP["controller"]}: {", ".join(CONTROLLERS)}'
    parser.add_argument('--controller', default='joint_trajectory', help=about)
    parser.add_argument('--guard-config', default='', help=ARGUMENT_HELP['guard_config'])
    parser.add_argument('--params-file', default='', help=ARGUMENT_HELP['params_file'])
    options.add_flag(parser, '--dry-run', ARGUMENT_HELP['dry_run'])
    options.add_graph(parser, 'namespace of all nodes, which then share a clock of their own')
    options.add_flag(parser, '--no-planner', 'start simulator and guard only')


def demo(args: argparse.Namespace) -> int:
    """Reach goals on the virtual arm over ROS 2 and write a page of animations."""
    from jepa_arm.ros.runtime.environment import prepare_ros

    prepare_ros()
    from jepa_arm.evaluation.protocol import EvaluationSettings
    from jepa_arm.ros.graph.demo import run_demo

    settings = EvaluationSettings(
        args.task, args.episodes, args.seed, with_baselines=False, keep_frames=True
    )
    page, reached = run_demo(settings, options.checkpoint(args), args.arm, Path(args.out))
    print(f'\n{reached} of {args.episodes} goals reached. Animations, paths and latencies: {page}')
    print(NEXT_STEPS)
    return 0 if reached else 1


def up(args: argparse.Namespace) -> int:
    """Start simulator, planner and guard and keep them running until Ctrl-C."""
    if args.no_planner:
        options.refuse(args, ('checkpoint', 'dry_run'), 'with --no-planner')
    missing = missing_modules()
    if missing:  # one message instead of one from each node
        raise ConfigError(f'missing modules: {", ".join(missing)}; {how_to_get(*missing)}')
    graph = SimulationGraph(
        arm=args.arm,
        checkpoint=args.checkpoint or options.DEFAULT_CHECKPOINT,
        controller=args.controller,
        guard_config=args.guard_config,
        dry_run=args.dry_run,
        namespace=args.namespace,
        task=args.task,
        seed=args.seed,
        gui=args.gui,
        with_planner=not args.no_planner,
    )
    graph.check()
    nodes = with_parameter_file(graph.nodes, args.params_file, args.namespace)
    options.join_graph(args)
    from jepa_arm.ros.graph.up import run_until_interrupted

    if args.domain_id is not None:
        print(
            f'elsewhere: --domain-id {args.domain_id} for jepa-arm record, doctor and view; '
            f'export ROS_DOMAIN_ID={args.domain_id} for ros2'
        )
    return run_until_interrupted(nodes, args.namespace)
