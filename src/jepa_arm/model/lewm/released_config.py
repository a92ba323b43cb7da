"""Configuration of LeWorldModel's released checkpoints: ``config.json``, parsed and written.

The file has Hydra's form: ``_target_`` names a class, the other keys are its arguments. Class
names are compared with the known ones; nothing is imported.
"""

from __future__ import annotations

from typing import Any

from jepa_arm.config import ConfigError, LewmConfig
from jepa_arm.model.checkpoint_files import flatten

VIT_SIZES = {'tiny': (192, 12, 3), 'small': (384, 12, 6), 'base': (768, 12, 12)}
"""Width, blocks and heads of the encoder by name."""
CLASS_ALIASES = {'LeWM': 'JEPA', 'Predictor': 'ARPredictor'}
"""Names of classes in some released files, by their current names."""
REDUNDANT_KEYS = {'embed_dim', 'history_size'}
DEFAULTS: dict[str, Any] = {
    'encoder.image_size': 224,
    'encoder.patch_size': 16,
    'encoder.pretrained': False,
    'predictor.dim_head': 64,
    'predictor.dropout': 0.0,
    'predictor.emb_dropout': 0.0,
    'action_encoder.smoothed_dim': 10,
    'action_encoder.mlp_scale': 4,
    'projector.norm_fn._partial_': True,
    'pred_proj.norm_fn._partial_': True,
}
"""Values of keys that a file may omit."""


def parse_released_config(values: Any) -> tuple[LewmConfig, int]:
    """Return the network's sizes and its action block width K*A from a ``config.json``.

    Raises:
        ConfigError: a key is missing or unknown, or a class or value is not LeWorldModel's.
    """
    if not isinstance(values, dict):
        raise ConfigError(f'top level: expected a mapping, got {values!r}')
    flat = {k: v for k, v in flatten(values).items() if k not in REDUNDANT_KEYS}

    def number(key: str, minimum: int = 1) -> Any:
        value: Any = flat.get(key, DEFAULTS.get(key))
        if type(value) not in (int, type(DEFAULTS.get(key))) or value < minimum:
            raise ConfigError(f'{key}: expected a number >= {minimum}, got {value!r}')
        return value

    size = flat.get('encoder.size')
    if size not in tuple(VIT_SIZES):
        raise ConfigError(f'encoder.size: expected one of {tuple(VIT_SIZES)}, got {size!r}')
    latent_dim, blocks, heads = VIT_SIZES[size]
    config = LewmConfig(
        name='lewm',
        image_size=number('encoder.image_size'),
        patch_size=number('encoder.patch_size'),
        encoder_blocks=blocks,
        encoder_heads=heads,
        latent_dim=latent_dim,
        projector_width=number('projector.hidden_dim'),
        predictor_blocks=number('predictor.depth'),
        predictor_heads=number('predictor.heads'),
        head_width=number('predictor.dim_head'),
        predictor_width=number('predictor.mlp_dim'),
        dropout=float(number('predictor.dropout', 0)),
        history=number('predictor.num_frames'),
        action_channels=number('action_encoder.smoothed_dim'),
    )
    block_width = number('action_encoder.input_dim')
    _check_equal(flat, DEFAULTS | flatten(released_config(config, block_width)))
    return config, block_width


def released_config(config: LewmConfig, block_width: int) -> dict[str, Any]:
    """Return the content of ``config.json`` for a network of these sizes and block width K*A.

    Raises:
        ConfigError: the encoder's sizes have no name in the released layout.
    """
    shape = (config.latent_dim, config.encoder_blocks, config.encoder_heads)
    sizes = [name for name, size in VIT_SIZES.items() if size == shape]
    if not sizes:
        raise ConfigError(
            f'{config.name}: expected latent_dim, encoder_blocks and encoder_heads as one of '
            f'{VIT_SIZES}, got {shape}; the released layout has no name for it'
        )
    package = 'stable_worldmodel.wm.lewm'
    projector = {
        '_target_': f'{package}.module.MLP',
        'input_dim': config.latent_dim,
        'output_dim': config.latent_dim,
        'hidden_dim': config.projector_width,
        'norm_fn': {'_target_': 'torch.nn.BatchNorm1d', '_partial_': True},
    }
    return {
        '_target_': f'{package}.LeWM',
        'encoder': {
            '_target_': 'stable_pretraining.backbone.utils.vit_hf',
            'size': sizes[0],
            'patch_size': config.patch_size,
            'image_size': config.image_size,
            'pretrained': False,
            'use_mask_token': False,
        },
        'predictor': {
            '_target_': f'{package}.module.Predictor',
            'num_frames': config.history,
            'input_dim': config.latent_dim,
            'hidden_dim': config.latent_dim,
            'output_dim': config.latent_dim,
            'depth': config.predictor_blocks,
            'heads': config.predictor_heads,
            'mlp_dim': config.predictor_width,
            'dim_head': config.head_width,
            'dropout': config.dropout,
            'emb_dropout': 0.0,
        },
        'action_encoder': {
            '_target_': f'{package}.module.Embedder',
            'input_dim': block_width,
            'smoothed_dim': config.action_channels,
            'emb_dim': config.latent_dim,
        },
        'projector': projector,
        'pred_proj': projector,
    }


def _check_equal(flat: dict[str, Any], expected: dict[str, Any]) -> None:
    """Check values against the expected; ``_target_`` may be missing, its package is ignored."""
    unknown = sorted(set(flat) - set(expected))
    for key in unknown:
        if any(name.startswith(f'{key}.') for name in expected):
            raise ConfigError(f'{key}: expected a mapping, got {flat[key]!r}')
    if unknown:
        raise ConfigError(f'unknown keys {unknown}')
    for key, value in expected.items():
        if key.endswith('_target_'):
            name = value.rpartition('.')[2]
            classes = name, CLASS_ALIASES.get(name, name)
            if str(flat.get(key, name)).rpartition('.')[2] not in classes:
                raise ConfigError(f'{key}: expected one of {classes}, got {flat[key]!r}')
        elif key not in flat and key not in DEFAULTS:
            raise ConfigError(f'missing key {key}')
        elif flat.get(key, value) != value:
            raise ConfigError(f'{key}: expected {value!r}, got {flat[key]!r}')
