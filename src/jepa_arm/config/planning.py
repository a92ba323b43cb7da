"""Planner configuration: search, cost weights, deadline and backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .rules import Checked, Count, Positive, Rule, at_least, one_of, require

OPTIMIZERS = ('local', 'actor', 'icem', 'cem', 'mppi')
"""Names of the searches; the first two need an actor-critic for the kind of goal."""
BACKENDS = ('openvino', 'torch')
"""Libraries that can run the networks during planning."""


@dataclass(frozen=True)
class ActorConfig(Checked):
    """Settings of the 'actor' search, which takes the actor's proposal without refinement.

    Attributes:
        steps: number of control steps to the goal that the actor is conditioned on.
    """

    steps: Count


@dataclass(frozen=True)
class CemConfig(Checked):
    """Settings of the cross-entropy method.

    Attributes:
        candidates: action sequences per iteration.
        iterations: maximum number of iterations.
        elites: number of best candidates, from which the next mean and std are computed.
        std: standard deviation of the actions in the first iteration.
    """

    candidates: int
    iterations: Count
    elites: int
    std: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        is_allowed = 2 <= self.elites < self.candidates
        require(is_allowed, 'elites', f'2 or more, fewer than {self.candidates}', self.elites)


@dataclass(frozen=True)
class MppiConfig(Checked):
    """Settings of model predictive path integral control.

    Attributes:
        candidates: action sequences per iteration.
        iterations: maximum number of iterations.
        temperature: excess cost at which a candidate's weight falls to 1/e of the best one's.
        std: standard deviation of the noise on actions.
        noise_exponent: exponent of the noise's power spectrum 1/f^exponent; 0 is white noise.
    """

    candidates: Annotated[int, at_least(2)]
    iterations: Count
    temperature: Positive
    std: Positive
    noise_exponent: float


@dataclass(frozen=True)
class PlannerConfig(Checked):
    """Settings of the planner; the shipped values are in ``config/planner.yaml``.

    Attributes:
        optimizer: 'local' (actor proposals refined by a local search), 'actor' (no refinement),
            'icem', 'cem' or 'mppi'. Without an actor-critic for the kind of goal, the first two
            are replaced by iCEM.
        horizon: H, model steps in a plan.
        candidates: action sequences evaluated per iteration.
        iterations: maximum number of iterations.
        min_candidates: smallest number of candidates per iteration that a planner node may choose
            on a machine too slow to finish all iterations before the deadline; 0: it always uses
            ``candidates``.
        elites: number of best candidates, around which the next iteration samples.
        noise_min, noise_std: smallest and largest standard deviation of the noise on actions.
        noise_exponent: exponent of the noise's power spectrum 1/f^exponent.
        temperature: factor on the standard deviation of the actor's samples.
        icem_std, icem_iterations: initial standard deviation and number of iterations of iCEM.
        actor, cem, mppi: settings of these searches.
        value_weight: cost per model step to the goal, as estimated by the value network.
        distance_weight: cost per m from the object or tip to the goal position.
        latent_weight: cost per unit of mean squared distance to a goal latent, if the value is
            scored too; otherwise it is 1.
        yaw_weight: cost per rad between the yaw of the object and that of the goal.
        press_weight: cost per m of depth of the tip inside the object, modelled as an upright
            cylinder of press_radius and press_height (m).
        region_weight: cost per m that the object is outside the region where the tip can push it
            from every side.
        edge_margin: m from the edges of the tip's workspace to those of that region.
        tip_margin, object_margin: m, required clearance of the tip and of the object's centre from
            declared obstacles.
        obstacle_weight: cost per m of missing clearance, averaged over the path.
        obstacle_slack: m of clearance that the tip may lack before its path counts as blocked.
        min_subgoal_distance: m, smallest distance to a subgoal on the way around obstacles.
        deadline_ms: ms from the start of a search, which starts an iteration only if it expects to
            finish by then. Infinity: all iterations run.
        max_goal_std: m, largest predicted rms error with which a goal position may be read from an
            image.
        valid_for: s after its observation for which a proposal may be followed, in process; over
            ROS, ``GuardConfig`` sets the validity.
        waypoints: number of waypoints in a proposal, one per control step.
        threads: CPU threads of the planner's networks.
        backend: 'openvino' (networks compiled for the CPU) or 'torch'.
        timeout: s, default time limit of a goal.
    """

    optimizer: Annotated[str, one_of(*OPTIMIZERS)]
    horizon: Count
    candidates: Count
    iterations: Count
    elites: Count
    noise_min: float
    noise_std: float
    noise_exponent: float
    temperature: float
    icem_std: float
    icem_iterations: Count
    actor: ActorConfig
    cem: CemConfig
    mppi: MppiConfig
    value_weight: float
    distance_weight: float
    press_weight: float
    press_radius: float
    press_height: float
    region_weight: float
    edge_margin: float
    tip_margin: float
    object_margin: float
    obstacle_weight: float
    obstacle_slack: float
    min_subgoal_distance: float
    deadline_ms: Annotated[float, Rule('positive', lambda value: value > 0.0)]
    max_goal_std: Positive
    valid_for: Positive
    waypoints: Count
    threads: int
    timeout: float
    latent_weight: float = 1.0
    yaw_weight: float = 2.0
    backend: Annotated[str, one_of(*BACKENDS)] = 'openvino'
    min_candidates: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        half = f'at most half of the {self.candidates} candidates'
        require(self.elites <= self.candidates // 2, 'elites', half, self.elites)
        fewest, least = self.min_candidates or self.candidates, 2 * self.elites
        is_allowed = least <= fewest <= self.candidates
        expected = f'0, or {least} (twice the elites) to {self.candidates} (the candidates)'
        require(is_allowed, 'min_candidates', expected, self.min_candidates)

    @property
    def candidate_range(self) -> range:
        """Numbers of candidates per iteration that a planner node may choose from."""
        has_choice = self.min_candidates and self.optimizer == 'local'
        return range(self.min_candidates if has_choice else self.candidates, self.candidates + 1)
