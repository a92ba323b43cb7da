"""Training of the actor-critic on frozen latents, with hindsight goals.

The actor is a mixture density trained by behaviour cloning; its goals are positions that the same
episode reached up to ``max_steps`` control steps later (goal-conditioned supervised learning). The
value is trained by expectile regression of the goal-reaching return (HIQL, arXiv:2307.11949,
eq. 4, in its action-free form); a goal counts as reached within ``goal_tolerance``.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from jepa_arm.config import ActorCriticConfig
from jepa_arm.model.checkpoint import Checkpoint, load_checkpoint
from jepa_arm.model.checkpoint_files import add_module, round_weights
from jepa_arm.model.heads.actor_critic import ActorCritic
from jepa_arm.model.heads.pose_actor_critic import PoseActorCritic

from .cpu import TrainedParts, load_parts, parts_of, worker_pool
from .encoding import HeadTraining
from .fit import adamw, fit, recent_mean
from .hindsight import GoalSampler, HindsightSampler, Trajectories

RANDOM_GOALS = 0.5
"""Share of random goals in the training of the value."""


def train_actor_critic(inputs: HeadTraining, config: ActorCriticConfig) -> None:
    """Train actor and value and add them to the checkpoint as ``actor_critic.safetensors``.

    The two are trained in parallel, in two processes of one thread each.

    Raises:
        CheckpointError, DataError: a file cannot be used.
        TrainingError: a loss is not finite.
    """
    networks = _new_actor_critic(load_checkpoint(inputs.folder), config)
    with worker_pool(2) as pool:
        jobs = [pool.submit(_train_network, n, inputs, config) for n in ('actor', 'value')]
        losses = load_parts(networks, (job.result() for job in jobs))
    round_weights(networks)
    add_module(inputs.folder, 'actor_critic', networks, inputs.describe(config) | losses)


def _new_actor_critic(checkpoint: Checkpoint, config: ActorCriticConfig) -> ActorCritic:
    model = checkpoint.model
    return ActorCritic(model.latent_dim, model.block_width, config.max_steps)


def _train_network(name: str, inputs: HeadTraining, config: ActorCriticConfig) -> TrainedParts:
    """Train the 'actor' or the 'value'; return its weights and loss."""
    checkpoint, episodes = load_checkpoint(inputs.folder), inputs.encoded.episodes
    with torch.inference_mode():
        z = torch.from_numpy(inputs.encoded.z)
        estimates = torch.stack(checkpoint.probes.read_both(z)).numpy()
    positions = np.stack([episodes.tip_target, episodes.object_position])
    torch.manual_seed(inputs.seed)
    networks = _new_actor_critic(checkpoint, config)
    rng = np.random.default_rng([inputs.seed, ord(name[0])])
    trajectories = Trajectories.training_split(inputs.encoded)
    sampler = HindsightSampler(trajectories, positions, estimates, rng)
    train = train_actor if name == 'actor' else train_value
    loss = train(networks, sampler, config)
    return parts_of(networks, name, **{f'{name}_loss': loss})


def train_actor(networks: ActorCritic, sampler: GoalSampler, config: ActorCriticConfig) -> float:
    """Train ``networks.actor`` in place; return its mean loss in the last steps.

    The loss is the negative log-likelihood of recorded actions.
    """
    actor, max_steps = networks.actor, networks.max_steps

    def loss(step: int) -> Tensor:
        batch = sampler.sample(config.batch, max_steps, random_goals=0.0)
        velocity, remaining = batch['z'] - batch['z_prev'], batch['remaining'] / max_steps
        return -actor.log_prob(
            sampler.features(batch), velocity, remaining, batch['action']
        ).mean()

    optimizer = adamw(actor, config.actor_steps, config.learning_rate)
    return recent_mean(fit(actor, loss, optimizer, 'actor'))


def train_value(
    networks: ActorCritic | PoseActorCritic, sampler: GoalSampler, config: ActorCriticConfig
) -> float:
    """Train ``networks.value`` in place; return its mean loss in the last steps."""
    value = networks.value
    target = copy.deepcopy(value).requires_grad_(False)

    def loss(step: int) -> Tensor:
        batch = sampler.sample(config.batch, networks.max_steps, RANDOM_GOALS)
        now, later = sampler.features(batch), sampler.features(batch, later=True)
        with torch.no_grad():
            is_reached = sampler.is_reached(batch, config.goal_tolerance)
            bootstrapped = -1.0 + config.discount * target(later)
            returns = torch.where(is_reached, torch.zeros_like(bootstrapped), bootstrapped)
            for slow, fast in zip(target.parameters(), value.parameters(), strict=True):
                slow.lerp_(fast, config.target_update_rate)
        first, second = value.estimates(now)
        return _expectile_loss(returns - first, config.expectile) + _expectile_loss(
            returns - second, config.expectile
        )

    optimizer = adamw(value, config.value_steps, config.learning_rate)
    return recent_mean(fit(value, loss, optimizer, 'value'))


def _expectile_loss(error: Tensor, expectile: float) -> Tensor:
    weight = torch.where(error > 0, expectile, 1.0 - expectile)
    return (weight * error**2).mean()
