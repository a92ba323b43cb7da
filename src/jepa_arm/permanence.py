"""Object permanence: what something hides is still there.

An obstacle, or the arm, may hide the object in an image. Then the belief that is carried on by
prediction and joints may tell better where it is than the image does.
"""

from __future__ import annotations

import math

from torch import Tensor

from .belief import Belief, BlindError
from .model.belief_heads import SUBJECTS, BeliefHeads
from .model.probes import Probes
from .surprise import sight_score

HIDDEN_M = 0.01
"""Rms error of a reading of the object below which it is in sight."""
HIDDEN_S = 3.0
"""For which a hidden object is remembered: so long the belief was taught to last."""
SIGHT_SCORE = 9.0
"""Squared error over its usual variance above which an image does not show the arm's tip."""


def remembered(
    belief: Belief,
    probes: Probes,
    heads: BeliefHeads | None,
    stamp: float,
    z: Tensor,
    proprio: Tensor,
    features: Tensor,
) -> Belief | None:
    """``belief`` carried on to ``stamp`` (s), where that tells the object better than an image.

    Only where the image shows the arm where it is: else something is wrong with the image.

    Args:
        belief: before the image; unchanged.
        probes, heads: of its world model.
        stamp: s, of the image; z: (1, D), its latent; features: (1, F), of the image alone.
        proprio: (1, P), of its time.

    Returns:
        None where the image is to be seen.
    """
    spread = float(probes.spread('object', z))
    if heads is None or spread < HIDDEN_M:
        return None
    if float(sight_score(heads, proprio, features)) > SIGHT_SCORE:
        return None
    ahead = belief.copy()
    try:
        ahead.feel(stamp, proprio)
    except BlindError:
        return None
    doubt = math.sqrt(3.0) * float(ahead.doubt()[SUBJECTS.index('object')])
    return ahead if ahead.blind_for <= HIDDEN_S and doubt < spread else None
