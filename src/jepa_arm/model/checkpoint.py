"""Checkpoints: a world model, its probes and its heads in one folder.

========================== ===============================================================
``config.json``            schema version, model sizes, normaliser, contract, gate report, and how
                           model, data and each head were made
``model.safetensors``      world model: weights and batch statistics
``probes.safetensors``     position probes
``actor_critic``, ``pose``, optional heads, each in ``<name>.safetensors`` with an entry of the
``belief``, ``decoder``    same name in ``config.json``
========================== ===============================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepa_arm.config import (
    ConfigError,
    Contract,
    DecoderConfig,
    LewmConfig,
    ModelConfig,
    from_dict,
    model_config,
    to_dict,
)
from jepa_arm.core.files import git_hash

from .checkpoint_files import (
    SCHEMA_VERSION,
    CheckpointError,
    fingerprint,
    flatten,
    load_module,
    new_folder,
    read_info,
    read_metadata,
    save_module,
    write_info,
)
from .heads.actor_critic import ActorCritic
from .heads.belief_heads import BeliefHeads
from .heads.decoder import Decoder
from .heads.pose_actor_critic import PoseActorCritic
from .heads.probes import Probes
from .lewm.networks import LeWorldModel
from .world_model import Normaliser, WorldModel

AnyWorldModel = WorldModel | LeWorldModel

UNCOMPARED_KEYS = ('camera.frame_id', 'camera.wrist.frame_id', 'time.physics_dt')
"""Contract values that may differ: names of frames, and the simulator's physics step."""
FINGERPRINT_KEY = 'world_model'
"""Metadata entry of the decoder's file: ``fingerprint`` of the world model it belongs to."""
DECODER_HINT = 'jepa-arm train --only decoder --data DATA --checkpoint CHECKPOINT makes one'


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint folder, without optional heads.

    Attributes:
        folder: where it was read from.
        model, probes: in eval mode, without gradients.
        contract: arm, camera, action space and timing that the model was trained for.
        info: the content of ``config.json``: ``gates``, ``training``, ``data``, ``git``, …
    """

    folder: Path
    model: AnyWorldModel
    probes: Probes
    contract: Contract
    info: dict[str, Any]


def build_world_model(
    config: ModelConfig | LewmConfig, contract: Contract, normaliser: Normaliser
) -> AnyWorldModel:
    """Return the world model of a configuration, with untrained weights."""
    if isinstance(config, LewmConfig):
        return LeWorldModel(config, contract, normaliser)
    return WorldModel(config, contract, normaliser)


def save_checkpoint(
    folder: Path, model: AnyWorldModel, probes: Probes, info: Mapping[str, Any]
) -> None:
    """Write a checkpoint folder atomically, replacing one that exists.

    ``info`` (gates, training, data; plain values) is added to the model's own ``config.json``.
    """
    content = {
        'schema_version': SCHEMA_VERSION,
        'model': to_dict(model.config),
        'contract': to_dict(model.contract),
        'normaliser': to_dict(model.normaliser),
        **info,
        'git': git_hash(),
    }
    with new_folder(Path(folder)) as partial:
        save_module(partial, 'model', model)
        save_module(partial, 'probes', probes)
        write_info(partial, content)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read and check a checkpoint folder.

    Raises:
        CheckpointError: a file is missing or truncated, the schema version or the tensors do not
            match, or values are not finite.
    """
    folder = Path(folder)
    info = read_info(folder)
    if 'imported' in info:
        raise CheckpointError(
            f'{folder} holds an imported network without arm, camera and action space; it can '
            'only be exported, or read with load_lewm'
        )
    try:
        contract = from_dict(Contract, info['contract'])
        normaliser = from_dict(Normaliser, info['normaliser'])
        model = build_world_model(model_config(info['model']), contract, normaliser)
    except (KeyError, ConfigError) as error:
        raise CheckpointError(
            f'{folder}/config.json: expected model, contract and normaliser: {error}; train again'
        ) from error
    load_module(folder, 'model', model)
    probes = load_module(folder, 'probes', Probes(model.latent_dim))
    return Checkpoint(folder, model, probes, contract, info)


def load_actor_critic(checkpoint: Checkpoint) -> ActorCritic | None:
    """Return the checkpoint's actor and value in eval mode; None if it has none.

    Raises:
        CheckpointError: the file is broken or belongs to another model.
    """
    info, model = checkpoint.info.get('actor_critic'), checkpoint.model
    if info is None:
        return None
    actor_critic = ActorCritic(model.latent_dim, model.block_width, int(info['max_steps']))
    return load_module(checkpoint.folder, 'actor_critic', actor_critic)


def load_pose_actor_critic(checkpoint: Checkpoint) -> PoseActorCritic | None:
    """Return the checkpoint's networks for pose goals in eval mode; None if it has none.

    Raises:
        CheckpointError: the file is broken or belongs to another model.
    """
    info, contract = checkpoint.info.get('pose'), checkpoint.contract
    if info is None:
        return None
    pose = PoseActorCritic(contract.time.frame_skip, contract.action_width, int(info['max_steps']))
    return load_module(checkpoint.folder, 'pose', pose)


def new_belief_heads(checkpoint: Checkpoint) -> BeliefHeads:
    """Return untrained belief heads for the checkpoint's world model.

    Raises:
        CheckpointError: the world model is a LeWorldModel or does not predict from two latents.
    """
    model = checkpoint.model
    if not isinstance(model, WorldModel) or model.past != 1:
        raise CheckpointError(
            f'{checkpoint.folder}: belief heads need a compact world model that predicts from two '
            f'latents (history: 2), got {model.config.name}'
        )
    features, size = model.config.image_features, checkpoint.contract.camera.image_size
    return BeliefHeads(model.latent_dim, model.normaliser, model.block_width, features, size)


def load_belief_heads(checkpoint: Checkpoint) -> BeliefHeads | None:
    """Return the checkpoint's belief heads in eval mode; None if it has none.

    Raises:
        CheckpointError: the file is broken or belongs to another model.
    """
    if 'belief' not in checkpoint.info:
        return None
    try:
        return load_module(checkpoint.folder, 'belief', new_belief_heads(checkpoint))
    except CheckpointError as error:
        raise CheckpointError(f'{error}; jepa-arm train --only belief makes new ones') from error


def new_decoder(checkpoint: Checkpoint, config: DecoderConfig) -> Decoder:
    """Return an untrained decoder for the checkpoint's world model."""
    size = checkpoint.contract.camera.image_size
    return Decoder(checkpoint.model.latent_dim, size, config.channels)


def load_decoder(checkpoint: Checkpoint) -> Decoder | None:
    """Return the checkpoint's decoder in eval mode; None if it has none.

    Raises:
        CheckpointError: the file is broken or belongs to other weights of the world model.
    """
    if 'decoder' not in checkpoint.info:
        return None
    folder = checkpoint.folder
    try:
        config = from_dict(DecoderConfig, checkpoint.info['decoder']['config'])
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f'{folder}/config.json, decoder: expected its configuration: {error}; {DECODER_HINT}'
        ) from error
    decoder = new_decoder(checkpoint, config)
    own, metadata = fingerprint(checkpoint.model), read_metadata(folder, 'decoder')
    if metadata is not None and metadata.get(FINGERPRINT_KEY) != own:
        raise CheckpointError(
            f'{folder}/decoder.safetensors: expected a decoder of the world model beside it '
            f'({own}), got one of another ({metadata.get(FINGERPRINT_KEY, "unknown")[:64]}); '
            f'{DECODER_HINT}'
        )
    return load_module(folder, 'decoder', decoder)


def check_contract(contract: Contract, live: Contract) -> None:
    """Check that a model trained for ``contract`` can control the ``live`` robot.

    Raises:
        CheckpointError: they differ; the message lists every difference.
    """
    trained, present = flatten(to_dict(contract)), flatten(to_dict(live))
    differences = [
        f'{key}: trained with {trained.get(key)}, here {present.get(key)}'
        for key in sorted(set(trained) | set(present))
        if key not in UNCOMPARED_KEYS and not _is_close(trained.get(key), present.get(key))
    ]
    if not differences:
        return
    advice = 'load a checkpoint trained for this one, or change the arm configuration'
    if contract.arm != live.arm:
        arm = live.arm
        advice = (
            f'load a checkpoint trained for {arm} (to train one: jepa-arm train --arm {arm}); to '
            f'try the arm without: jepa-arm up --no-planner --arm {arm}, or jepa-arm eval --task '
            f'reach --planner scripted --arm {arm}'
        )
    raise CheckpointError(
        'the checkpoint is for another robot\n  ' + '\n  '.join(differences) + f'\n{advice}'
    )


def _is_close(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_is_close(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-6 * max(1.0, abs(a))
    return a == b
