"""Write lewm_reference.npz: outputs of stable-worldmodel's LeWorldModel.

python test/data/make_lewm_reference.py, where `pip install -e '.[parity]'` was run.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2 as transforms
from stable_pretraining.backbone.utils import vit_hf
from stable_worldmodel.wm.lewm import LeWM
from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor
from stable_worldmodel.wm.loss import SIGReg

sys.path.insert(0, str(Path(__file__).parents[1]))
import lewm_reference as reference
from jepa_arm.model.lewm.released_checkpoint import released_name


def published_model() -> LeWM:
    """Return the authors' network with the weights of ``reference.weights``."""
    sizes = {'input_dim': 192, 'hidden_dim': 192, 'output_dim': 192}
    projectors = [MLP(192, 2048, 192, norm_fn=torch.nn.BatchNorm1d) for _ in range(2)]
    model = LeWM(
        encoder=vit_hf('tiny', patch_size=14, image_size=224, use_mask_token=False),
        predictor=Predictor(num_frames=3, depth=6, heads=16, mlp_dim=2048, dropout=0.1, **sizes),
        action_encoder=Embedder(input_dim=reference.BLOCK_WIDTH, emb_dim=192),
        projector=projectors[0],
        pred_proj=projectors[1],
    )
    state = model.state_dict()
    names = {released_name(name): name for name in state}
    values = reference.weights({k: state[name].shape for k, name in names.items()})
    model.load_state_dict({names[k]: value for k, value in values.items()})
    return model.eval().requires_grad_(False)


def published_image(image: np.ndarray) -> torch.Tensor:
    """Return an image (3, 224, 224) of (h, w, 3) uint8, prepared as in the authors' training."""
    prepare = transforms.Compose(
        [
            transforms.ToImage(),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            transforms.Resize(224),
        ]
    )
    return prepare(image)


def published_numbers(model: LeWM) -> dict[str, Any]:
    """Return the reference values of test_lewm.py by name."""
    pixels = torch.stack([published_image(image) for image in reference.images()])
    embeddings = model.encode({'pixels': pixels[None]})['emb'][0]
    window, actions = reference.latents(4, 4), reference.actions(4, 3)
    teacher_forced = model.predict(window[:, :3], model.action_encoder(actions))
    candidates = reference.actions(8, 5)

    def start() -> dict[str, torch.Tensor]:
        shape = (1, 8, 1, 3, 224, 224)
        first, goal = (pixels[i][None, None, None].expand(shape) for i in (0, 1))
        return {'pixels': first, 'goal': goal, 'action': torch.zeros(1, 8, 1, 10)}

    rollout = model.rollout(start(), candidates[None])['predicted_emb'][0, :, 1:]
    with_history = model.rollout(
        {'pixels': pixels[None, None, :3]}, reference.actions(1, 7)[None]
    )['predicted_emb'][0, :, 3:]
    torch.manual_seed(reference.SIGREG_SEED)
    sigreg = SIGReg(reference.SIGREG_KNOTS, reference.SIGREG_PROJECTIONS)
    return {
        'embeddings': embeddings,
        'teacher_forced': teacher_forced[:1],
        'prediction_loss': (teacher_forced - window[:, 1:]).pow(2).mean(),
        'rollout': rollout[:2],
        'rollout_with_history': with_history,
        'costs': model.get_cost(start(), candidates[None])[0],
        'sigreg': sigreg(reference.latents(4, 16)),
    }


def inventory(model: LeWM) -> str:
    """Return the SHA-256 of all tensors' released names and shapes."""
    shapes = {released_name(k): tuple(v.shape) for k, v in model.state_dict().items()}
    return hashlib.sha256(repr(sorted(shapes.items())).encode()).hexdigest()


if __name__ == '__main__':
    published = published_model()
    numbers = {k: v.numpy() for k, v in published_numbers(published).items()}
    np.savez_compressed(reference.FILE, inventory=inventory(published), **numbers)
    for key, value in numbers.items():
        print(f'{key:22s} {value.shape} std {value.std():.3f}')
    print(reference.FILE, reference.FILE.stat().st_size, 'bytes')
