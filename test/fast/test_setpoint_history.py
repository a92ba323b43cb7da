"""Commanded tip positions when commands reach the arm late."""

import numpy as np

from jepa_arm.agent.setpoint_history import SetpointHistory

SETPOINTS = np.arange(12.0).reshape(4, 3)
"""Commanded tip position before each of three changes, and after the last."""


def history_with(delay: float) -> SetpointHistory:
    """Return a history of changes decided at 0.0, 0.1 and 0.2 s."""
    history = SetpointHistory(0.1)
    for i, before in enumerate(SETPOINTS[:3]):
        history.add(0.1 * i, before, 0.1 * i + delay)
    return history


def test_commands_without_delay_are_complete_a_control_step_later() -> None:
    history = history_with(0.0)
    np.testing.assert_allclose(history.recent(0.3, SETPOINTS[3]), SETPOINTS[[3, 2]])
    np.testing.assert_allclose(history.at(0.3, SETPOINTS[3], 0), SETPOINTS[3])


def test_a_late_command_counts_for_what_is_left_of_its_control_step() -> None:
    history = history_with(0.04)
    share = 0.6 * SETPOINTS[1:] + 0.4 * SETPOINTS[:-1]
    np.testing.assert_allclose(history.recent(0.3, SETPOINTS[3]), share[[2, 1]])
    history.mark_applied(0.29)
    np.testing.assert_allclose(
        history.recent(0.3, SETPOINTS[3])[0], 0.1 * SETPOINTS[3] + 0.9 * SETPOINTS[2]
    )


def test_with_a_delay_of_a_control_step_the_previous_setpoint_is_in_effect() -> None:
    history = history_with(0.1)
    np.testing.assert_allclose(history.recent(0.3, SETPOINTS[3]), SETPOINTS[[2, 1]])
    np.testing.assert_allclose(history.at(0.3, SETPOINTS[3], 1), SETPOINTS[2])


def test_without_changes_the_setpoint_is_constant() -> None:
    history = history_with(0.0)
    history.reset()
    history.mark_applied(9.0)
    np.testing.assert_allclose(history.recent(0.3, SETPOINTS[3]), SETPOINTS[[3, 3]])
    np.testing.assert_allclose(history.at(0.3, SETPOINTS[3], 0), SETPOINTS[3])
