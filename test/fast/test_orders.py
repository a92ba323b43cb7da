"""Where the tip was told to be, when commands come late."""

import numpy as np

from jepa_arm.orders import Orders

PLACES = np.arange(12.0).reshape(4, 3)
"""The tip's target before each of three orders, and after the last."""


def orders(latency: float) -> Orders:
    """Decided at 0.0, 0.1 and 0.2 s."""
    kept = Orders(0.1)
    for i, before in enumerate(PLACES[:3]):
        kept.add(0.1 * i, before, 0.1 * i + latency)
    return kept


def test_commands_that_come_at_once_are_at_work_a_control_step_later() -> None:
    kept = orders(0.0)
    np.testing.assert_allclose(kept.lately(0.3, PLACES[3]), PLACES[[3, 2]])
    np.testing.assert_allclose(kept.at(0.3, PLACES[3], 0), PLACES[3])


def test_a_command_that_comes_late_counts_for_what_is_left_of_its_control_step() -> None:
    kept = orders(0.04)
    share = 0.6 * PLACES[1:] + 0.4 * PLACES[:-1]
    np.testing.assert_allclose(kept.lately(0.3, PLACES[3]), share[[2, 1]])
    kept.sent(0.29)
    np.testing.assert_allclose(kept.lately(0.3, PLACES[3])[0], 0.1 * PLACES[3] + 0.9 * PLACES[2])


def test_later_than_a_control_step_the_one_before_is_still_at_work() -> None:
    kept = orders(0.1)
    np.testing.assert_allclose(kept.lately(0.3, PLACES[3]), PLACES[[2, 1]])
    np.testing.assert_allclose(kept.at(0.3, PLACES[3], 1), PLACES[2])


def test_without_orders_the_tip_is_told_to_be_where_it_is() -> None:
    kept = orders(0.0)
    kept.reset()
    kept.sent(9.0)
    np.testing.assert_allclose(kept.lately(0.3, PLACES[3]), PLACES[[3, 3]])
    np.testing.assert_allclose(kept.at(0.3, PLACES[3], 0), PLACES[3])
