"""What a guard makes of the answers of a controller's action server."""

import pytest

from jepa_arm.nodes.goal_book import ABORTED, ANSWER_S, CANCELED, MOST_UNANSWERED, GoalBook

SUCCEEDED, PREEMPTED, PATH_VIOLATED = 4, -1, -4


@pytest.fixture
def book():
    book = GoalBook('/arm/follow_joint_trajectory')
    for number in (1, 2):
        assert book.may_send(is_urgent=False) and book.send(1.0) == number
        book.answered(number, True, 1.004)
    return book


def test_goals_that_are_accepted_and_replaced_are_no_trouble(book):
    book.ended(1, ABORTED, PREEMPTED, 'Current goal preempted by new incoming action.')
    book.ended(2, SUCCEEDED, 0, '')
    assert book.trouble(9.0) is None and book.is_accepted
    assert list(book.latencies_ms) == pytest.approx([4.0, 4.0])


def test_few_goals_are_under_way_at_once_and_only_a_stop_beside_another(book):
    for _ in range(MOST_UNANSWERED):
        assert book.may_send(is_urgent=True)
        book.send(2.0)
        assert not book.may_send(is_urgent=False)
    assert not book.may_send(is_urgent=True)


def test_a_server_that_does_not_answer_is_trouble_until_it_does(book):
    number = book.send(2.0)
    assert book.trouble(2.0 + 0.9 * ANSWER_S) is None
    trouble = book.trouble(2.0 + 1.1 * ANSWER_S)
    assert trouble.is_over_alone and 'not answered' in trouble.reason
    book.forget()
    book.answered(number, False, 3.0)  # too late to mean anything
    book.ended(number, ABORTED, PATH_VIOLATED, '')
    assert book.trouble(9.0) is None and not book.is_accepted


def test_a_goal_that_is_rejected_is_trouble_and_the_first_trouble_is_told(book):
    book.answered(book.send(2.0), False, 2.001)
    book.ended(3, ABORTED, PATH_VIOLATED, '')
    trouble = book.trouble(2.01)
    assert not trouble.is_over_alone
    assert trouble.reason.startswith('controller: /arm/follow_joint_trajectory rejected a goal')


@pytest.mark.parametrize(
    ('status', 'code', 'text', 'expected'),
    [
        (ABORTED, PATH_VIOLATED, 'path tolerance', 'aborted .* path tolerance'),
        (CANCELED, 0, '', 'canceled .* another client'),
        (0, 0, '', 'ended with status 0'),
    ],
)
def test_the_newest_goal_that_ends_by_itself_is_trouble(book, status, code, text, expected):
    book.ended(2, status, code, text)
    with pytest.raises(AssertionError, match=expected):
        raise AssertionError(book.trouble(2.0).reason)


def test_a_violated_tolerance_is_trouble_though_another_goal_was_sent_already(book):
    book.ended(1, ABORTED, PATH_VIOLATED, '')
    assert 'aborted' in book.trouble(2.0).reason
