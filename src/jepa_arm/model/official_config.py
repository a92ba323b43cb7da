"""``config.json`` of LeWorldModel's own checkpoints, read strictly and written.

It is in Hydra's form: ``_target_`` names a class, the other keys are its arguments. Classes are
compared with what is known here, never imported.
"""

from __future__ import annotations

from typing import Any

from ..config import ConfigError, LewmConfig

VIT_SIZES = {'tiny': (192, 12, 3), 'small': (384, 12, 6), 'base': (768, 12, 12)}
"""Width, blocks and heads of the encoder by their name."""
EMBEDDER_CHANNELS = 10


def parsed(values: Any) -> tuple[LewmConfig, int]:
    """Sizes of the network, and K*A, of the content of a ``config.json``.

    Raises:
        ConfigError: a key missing or unknown, a class or a value that is not LeWorldModel's.
    """
    top = _Section('', values)
    top.expect_target('LeWM', 'JEPA')
    top.ignore('embed_dim', 'history_size')
    encoder, predictor = top.section('encoder'), top.section('predictor')
    action = top.section('action_encoder')
    encoder.expect_target('vit_hf')
    size = encoder.one_of('size', *VIT_SIZES)
    encoder.one_of('pretrained', False, default=False)
    encoder.one_of('use_mask_token', False)
    latent, blocks, heads = VIT_SIZES[size]
    predictor.expect_target('Predictor', 'ARPredictor')
    for key in ('input_dim', 'hidden_dim', 'output_dim'):
        predictor.one_of(key, latent)
    predictor.one_of('emb_dropout', 0.0, default=0.0)
    action.expect_target('Embedder')
    action.one_of('emb_dim', latent)
    action.one_of('mlp_scale', 4, default=4)
    widths = {_projector_width(top.section(key), latent) for key in ('projector', 'pred_proj')}
    if len(widths) > 1:
        raise ConfigError(f'projectors: expected one hidden_dim, got {sorted(widths)}')
    config = LewmConfig(
        name='lewm',
        image_size=encoder.number('image_size', default=224),
        patch_size=encoder.number('patch_size', default=16),
        encoder_blocks=blocks,
        encoder_heads=heads,
        latent=latent,
        projector_width=widths.pop(),
        predictor_blocks=predictor.number('depth'),
        predictor_heads=predictor.number('heads'),
        head_width=predictor.number('dim_head', default=64),
        predictor_width=predictor.number('mlp_dim'),
        dropout=float(predictor.take('dropout', 0.0)),
        history=predictor.number('num_frames'),
        action_channels=action.number('smoothed_dim', default=EMBEDDER_CHANNELS),
    )
    block_width = action.number('input_dim')
    for section in (top, encoder, predictor, action):
        section.expect_empty()
    return config, block_width


def official(config: LewmConfig, block_width: int) -> dict[str, Any]:
    """The content of ``config.json`` for a network of these sizes and K*A.

    Raises:
        ConfigError: sizes of the encoder that have no name.
    """
    shape = (config.latent, config.encoder_blocks, config.encoder_heads)
    sizes = [name for name, size in VIT_SIZES.items() if size == shape]
    if not sizes:
        raise ConfigError(
            f'{config.name}: expected latent, encoder_blocks and encoder_heads as one of '
            f'{VIT_SIZES}, got {shape}; the official layout has no name for it'
        )
    package = 'stable_worldmodel.wm.lewm'
    projector = {
        '_target_': f'{package}.module.MLP',
        'input_dim': config.latent,
        'output_dim': config.latent,
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
            'input_dim': config.latent,
            'hidden_dim': config.latent,
            'output_dim': config.latent,
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
            'emb_dim': config.latent,
        },
        'projector': projector,
        'pred_proj': projector,
    }


def _projector_width(section: _Section, latent: int) -> int:
    section.expect_target('MLP')
    section.one_of('input_dim', latent)
    section.one_of('output_dim', latent)
    norm = section.section('norm_fn')
    norm.expect_target('BatchNorm1d')
    norm.one_of('_partial_', True, default=True)
    norm.expect_empty()
    width = section.number('hidden_dim')
    section.expect_empty()
    return width


class _Section:
    """A mapping of ``config.json`` whose every key must be taken, so that none is overlooked."""

    def __init__(self, where: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise ConfigError(f'{where or "top level"}: expected a mapping, got {values!r}')
        self._where, self._values = where, dict(values)

    def take(self, key: str, *default: Any) -> Any:
        if key not in self._values and not default:
            raise ConfigError(f'missing key {self._where}{key}')
        return self._values.pop(key, *default)

    def section(self, key: str) -> _Section:
        return _Section(f'{self._where}{key}.', self.take(key))

    def number(self, key: str, **default: int) -> int:
        value = self.take(key, *default.values())
        if type(value) is not int or value < 1:
            raise ConfigError(f'{self._where}{key}: expected a number >= 1, got {value!r}')
        return value

    def one_of(self, key: str, *allowed: Any, **default: Any) -> Any:
        value = self.take(key, *default.values())
        if value not in allowed:
            raise ConfigError(f'{self._where}{key}: expected one of {allowed}, got {value!r}')
        return value

    def expect_target(self, *classes: str) -> None:
        """The class, by its own name; some released files leave it out."""
        target = str(self.take('_target_', classes[0]))
        if target.rpartition('.')[2] not in classes:
            raise ConfigError(f'{self._where}_target_: expected one of {classes}, got {target!r}')

    def ignore(self, *keys: str) -> None:
        """Keys that repeat what others say."""
        for key in keys:
            self._values.pop(key, None)

    def expect_empty(self) -> None:
        if self._values:
            raise ConfigError(f'unknown keys {[self._where + k for k in sorted(self._values)]}')
