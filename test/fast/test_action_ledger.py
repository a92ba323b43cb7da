"""Faults that the guard finds in the answers of a controller's action server."""

import pytest

from jepa_arm.ros.guard.action_ledger import (
    ABORTED,
    ANSWER_S,
    CANCELED,
    MAX_UNANSWERED,
    ActionLedger,
)

SUCCEEDED, PREEMPTED, PATH_VIOLATED = 4, -1, -4


@pytest.fixture
def ledger():
    ledger = ActionLedger('/arm/follow_joint_trajectory')
    for number in (1, 2):
        assert ledger.may_send(is_urgent=False) and ledger.record_sent(1.0) == number
        ledger.record_answer(number, True, 1.004)
    return ledger


def test_goals_that_are_accepted_and_replaced_are_no_fault(ledger):
    ledger.record_result(1, ABORTED, PREEMPTED, 'Current goal preempted by new incoming action.')
    ledger.record_result(2, SUCCEEDED, 0, '')
    assert ledger.fault(9.0) is None and ledger.is_accepted
    assert list(ledger.latencies_ms) == pytest.approx([4.0, 4.0])


def test_only_urgent_goals_are_sent_while_another_is_in_flight(ledger):
    for _ in range(MAX_UNANSWERED):
        assert ledger.may_send(is_urgent=True)
        ledger.record_sent(2.0)
        assert not ledger.may_send(is_urgent=False)
    assert not ledger.may_send(is_urgent=True)


def test_a_server_that_does_not_answer_is_a_transient_fault(ledger):
    number = ledger.record_sent(2.0)
    assert ledger.fault(2.0 + 0.9 * ANSWER_S) is None
    fault = ledger.fault(2.0 + 1.1 * ANSWER_S)
    assert fault.is_transient and 'not answered' in fault.reason
    ledger.clear()
    ledger.record_answer(number, False, 3.0)  # too late to mean anything
    ledger.record_result(number, ABORTED, PATH_VIOLATED, '')
    assert ledger.fault(9.0) is None and not ledger.is_accepted


def test_a_rejected_goal_is_a_fault_and_the_first_fault_is_reported(ledger):
    ledger.record_answer(ledger.record_sent(2.0), False, 2.001)
    ledger.record_result(3, ABORTED, PATH_VIOLATED, '')
    fault = ledger.fault(2.01)
    assert not fault.is_transient
    assert fault.reason.startswith('controller: /arm/follow_joint_trajectory rejected a goal')


@pytest.mark.parametrize(
    ('status', 'code', 'text', 'expected'),
    [
        (ABORTED, PATH_VIOLATED, 'path tolerance', 'aborted .* path tolerance'),
        (CANCELED, 0, '', 'canceled .* another client'),
        (0, 0, '', 'ended with status 0'),
    ],
)
def test_the_end_of_the_newest_goal_is_a_fault(ledger, status, code, text, expected):
    ledger.record_result(2, status, code, text)
    with pytest.raises(AssertionError, match=expected):
        raise AssertionError(ledger.fault(2.0).reason)


def test_a_violated_tolerance_is_a_fault_even_of_a_replaced_goal(ledger):
    ledger.record_result(1, ABORTED, PATH_VIOLATED, '')
    assert 'aborted' in ledger.fault(2.0).reason
