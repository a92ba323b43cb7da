"""LeWorldModel against its authors' package: one set of weights, both codes, the same numbers.

Needs the extra ``parity``; test_lewm.py makes the same comparisons with stored numbers.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ.setdefault('HF_HUB_OFFLINE', '1')
for package in ('stable_worldmodel', 'stable_pretraining'):
    pytest.importorskip(
        package, reason=f"{package} is not installed: pip install -e '.[parity]' brings it"
    )
import transformers  # noqa: E402
from stable_worldmodel.solver.cem import CEMSolver  # noqa: E402
from stable_worldmodel.wm.loss import SIGReg  # noqa: E402
from stable_worldmodel.wm.utils import load_pretrained  # noqa: E402

from jepa_arm.config import LewmConfig, ModelFile, load  # noqa: E402
from jepa_arm.core.files import config_path  # noqa: E402
from jepa_arm.model.lewm.networks import LeWM  # noqa: E402
from jepa_arm.model.lewm.released_checkpoint import (  # noqa: E402
    read_released,
    released_name,
    transformers_5_name,
    write_released,
)
from jepa_arm.model.sigreg import sigreg  # noqa: E402
from jepa_arm.planning.costs.latent_distance import latent_distance  # noqa: E402

CANDIDATES, HORIZON = 6, 5


@pytest.fixture(scope='module', autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope='module')
def ours() -> LeWM:
    config = load(ModelFile, config_path('model/lewm.yaml')).model
    assert isinstance(config, LewmConfig)
    generator = torch.Generator().manual_seed(0)
    model = LeWM(config, 10).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith('running_var'):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim > 1:  # fresh weights ignore actions and hardly tell images apart
            tensor.normal_(0.0, 0.07, generator=generator)
    return model


@pytest.fixture(scope='module')
def home(ours: LeWM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the package looks for checkpoints, with our export as 'lewm'."""
    folder = tmp_path_factory.mktemp('home')
    newer = int(transformers.__version__.split('.')[0]) >= 5
    name = transformers_5_name if newer else released_name
    write_released(folder / 'checkpoints' / 'lewm', ours, name)
    return folder


@pytest.fixture(scope='module')
def theirs(home: Path) -> torch.nn.Module:
    return load_pretrained('lewm', cache_dir=str(home)).eval().requires_grad_(False)


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    print(f'{what}: largest difference {(ours - theirs).abs().max():.2e}, std {theirs.std():.3g}')
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_checkpoints_saved_by_the_package_are_read(
    theirs: torch.nn.Module, home: Path, ours: LeWM
) -> None:
    folder = home / 'checkpoints' / 'lewm'
    torch.save(theirs.state_dict(), folder / 'weights.pt')
    state = read_released(folder).state_dict()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(state[name], tensor, atol=0, rtol=0)


def test_embeddings_agree(ours: LeWM, theirs) -> None:
    images = random(4, 3, 224, 224)
    assert_same(ours.embed(images), theirs.encode({'pixels': images[None]})['emb'][0], 'embed')


def test_teacher_forced_predictions_agree(ours: LeWM, theirs) -> None:
    for steps in (1, 2, 3):
        z, actions = random(4, steps, 192), random(4, steps, 10, seed=2)
        expected = theirs.predict(z, theirs.action_encoder(actions))
        assert_same(ours.predict_next(z, actions), expected, f'predict {steps}')


@pytest.mark.parametrize('past', [1, 2, 3])
def test_rollouts_agree(ours: LeWM, theirs, past: int) -> None:
    images = random(past, 3, 224, 224)
    actions = random(CANDIDATES, past - 1 + HORIZON, 10, seed=2)
    shown = images.expand(1, CANDIDATES, *images.shape)
    expected = theirs.rollout({'pixels': shown}, actions[None])['predicted_emb'][0, :, past:]
    z = ours.embed(images).expand(CANDIDATES, -1, -1)
    assert_same(ours.rollout_history(z, actions), expected, f'rollout from {past}')


def test_sigreg_agrees_for_the_same_projections() -> None:
    z = 0.7 * random(4, 64, 192) + 0.2
    torch.manual_seed(3)
    expected = SIGReg(knots=17, num_proj=1024)(z)
    assert_same(sigreg(z, 1024, 17, torch.Generator().manual_seed(3)), expected, 'sigreg')


def test_costs_and_plans_of_their_cem_agree(ours: LeWM, theirs) -> None:
    """Their CEM solver finds the same costs and plans with either implementation."""
    from types import SimpleNamespace

    from gymnasium.spaces import Box

    first, goal = random(2, 3, 224, 224).unsqueeze(1)
    target = ours.embed(goal)[:1]
    priced: list[torch.Tensor] = []

    class Ours:
        def get_cost(self, info: dict, actions: torch.Tensor) -> torch.Tensor:
            start = ours.embed(info['pixels'][0, 0]).expand(actions.shape[1], 1, -1)
            rolled = ours.rollout_history(start, actions[0])
            cost = (ours.latent_dim * latent_distance(rolled[:, -1:], target))[None]
            expected = theirs.get_cost(dict(info), actions)
            priced.append((cost - expected).abs().max())
            torch.testing.assert_close(cost, expected, atol=1e-4, rtol=1e-6)
            return cost

    plans = []
    for model in (theirs, Ours()):
        solver = CEMSolver(model, num_samples=16, n_steps=3, topk=4, seed=0)
        space = Box(-1.0, 1.0, (1, 2))
        config = SimpleNamespace(horizon=HORIZON, action_block=5)
        solver.configure(action_space=space, n_envs=1, config=config)
        info = {'pixels': first[None], 'goal': goal[None], 'action': torch.zeros(1, 1, 10)}
        plans.append(solver.solve(info)['actions'])
    print(f'costs: largest difference {max(priced):.2e}')
    assert_same(plans[1], plans[0], 'CEM plan')
