"""Ways round obstacles: as short as can be, never through, none where there is none."""

import time

import numpy as np
import pytest

from jepa_arm.config import ObstacleConfig
from jepa_arm.routes import ahead, distance, is_blocked, pushed_out, route

POST = ObstacleConfig('post', 'box', (0.05, 0.05, 0.12), (0.5, 0.0, 0.06))
BOUNDS = np.array([[0.30, -0.27, 0.015], [0.68, 0.27, 0.25]])


def boxes(rng: np.random.Generator, count: int) -> tuple[ObstacleConfig, ...]:
    """Posts and walls at random, of any yaw."""
    out = []
    for i in range(count):
        x, y, z = rng.uniform([0.02, 0.02, 0.06], [0.10, 0.15, 0.16])
        place = rng.uniform([0.32, -0.25], [0.66, 0.25])
        yaw = float(rng.uniform(-np.pi, np.pi))
        out.append(ObstacleConfig(f'{i}', 'box', (x, y, z), (*place, z / 2.0), (0.0, 0.0, yaw)))
    return tuple(out)


def nearest(start: np.ndarray, way: np.ndarray, obstacles: tuple[ObstacleConfig, ...]) -> float:
    """m, least distance along a polyline, seen from many of its points."""
    corners = np.vstack([start, way])
    points = [
        a + share * (b - a)
        for a, b in zip(corners, corners[1:], strict=False)
        for share in np.linspace(0.0, 1.0, 60)
    ]
    return min(distance(point, obstacles) for point in points)


def test_the_way_round_a_post_is_the_shorter_one_at_its_margin() -> None:
    start, goal = np.array([0.5, -0.2]), np.array([0.51, 0.2])
    way = route(start, goal, [POST], 0.05)
    assert way is not None
    corners = np.array([[0.575, -0.075], [0.575, 0.075]])
    np.testing.assert_allclose(way, [*corners, goal], atol=1e-9)


def test_a_tip_goes_over_what_is_low_and_round_what_is_high() -> None:
    start, goal = np.array([0.5, -0.2, 0.1]), np.array([0.5, 0.2, 0.1])
    low = ObstacleConfig('low', 'box', (0.18, 0.03, 0.08), (0.5, 0.0, 0.04))
    high = ObstacleConfig('high', 'box', (0.05, 0.05, 0.40), (0.5, 0.0, 0.20))
    over, around = (route(start, goal, [o], 0.03, BOUNDS) for o in (low, high))
    assert over is not None and around is not None
    np.testing.assert_allclose(over[:, 0], 0.5, atol=1e-9)
    assert over[:, 2].max() == pytest.approx(0.11)
    assert np.all(around[:, 2] == 0.1) and abs(around[0, 0] - 0.5) == pytest.approx(0.055)


def test_a_tip_never_goes_below_what_its_peg_would_strike() -> None:
    start, goal = np.array([0.5, -0.2, 0.03]), np.array([0.5, 0.2, 0.03])
    bar = ObstacleConfig('bar', 'box', (0.1, 0.02, 0.02), (0.5, 0.0, 0.15))
    shelf = ObstacleConfig('shelf', 'box', (0.3, 0.8, 0.02), (0.5, 0.0, 0.5))
    way, below = (route(start, goal, [o], 0.03, BOUNDS) for o in (bar, shelf))
    assert way is not None and len(way) > 1
    assert below is not None and len(below) == 1


@pytest.mark.parametrize('dim', [2, 3])
def test_ways_keep_margin_and_bounds_and_bend_only_where_they_must(dim: int) -> None:
    rng, margin = np.random.default_rng(0), 0.03
    found = 0
    for _ in range(60):
        obstacles = boxes(rng, 3)
        start, goal = rng.uniform(BOUNDS[0, :dim], BOUNDS[1, :dim], (2, dim))
        if min(distance(p, obstacles) for p in (start, goal)) < margin * 1.5:
            continue
        way = route(start, goal, obstacles, margin, BOUNDS[:, :dim])
        if way is None:
            continue
        found += 1
        assert nearest(start, way, obstacles) > margin - 1e-5
        np.testing.assert_array_equal(way[-1], goal)
        assert np.all(way >= BOUNDS[0, :dim] - 1e-5) and np.all(way <= BOUNDS[1, :dim] + 1e-5)
        assert (len(way) == 1) == (not is_blocked(start, goal, obstacles, margin))
    assert found > 15


def test_no_way_is_none() -> None:
    ring = [
        ObstacleConfig(f'{i}', 'box', size, (x, y, 0.2))
        for i, (size, x, y) in enumerate(
            [
                ((0.02, 0.3, 0.4), 0.4, 0.0),
                ((0.02, 0.3, 0.4), 0.6, 0.0),
                ((0.3, 0.02, 0.4), 0.5, 0.12),
                ((0.3, 0.02, 0.4), 0.5, -0.12),
            ]
        )
    ]
    inside, outside = np.array([0.5, 0.0]), np.array([0.5, 0.25])
    assert route(inside, outside, ring, 0.01) is None
    assert route(np.array([0.5, 0.0, 0.1]), np.array([0.5, 0.25, 0.1]), ring, 0.01, BOUNDS) is None
    assert route(np.array([0.4, 0.2]), np.array([0.5, 0.0]), [POST], 0.01) is None  # goal in it


@pytest.mark.parametrize('dim', [2, 3])
def test_a_start_within_the_margin_comes_no_nearer(dim: int) -> None:
    start, goal = np.array([0.5, -0.04, 0.03])[:dim], np.array([0.5, 0.2, 0.03])[:dim]
    way = route(start, goal, [POST], 0.05)
    back = route(goal, start, [POST], 0.05)
    assert way is not None and back is not None
    assert nearest(start, way, (POST,)) > distance(start, [POST]) - 1e-5
    assert nearest(goal, back, (POST,)) > distance(start, [POST]) - 1e-5
    assert len(way) > 1 and len(back) > 1


def test_balls_capsules_and_leaning_boxes_count_with_a_box_that_holds_them() -> None:
    ball = ObstacleConfig('ball', 'sphere', (0.04,), (0.5, 0.0, 0.04))
    post = ObstacleConfig('post', 'capsule', (0.03, 0.2), (0.5, 0.0, 0.1))
    lying = ObstacleConfig('log', 'capsule', (0.03, 0.2), (0.5, 0.0, 0.03), (np.pi / 2, 0.0, 0.0))
    for obstacle, x, y in ((ball, 0.04, 0.04), (post, 0.03, 0.03), (lying, 0.03, 0.13)):
        assert distance(np.array([0.5 + x + 0.1, 0.0]), [obstacle]) == pytest.approx(0.1)
        assert distance(np.array([0.5, y + 0.1]), [obstacle]) == pytest.approx(0.1)


def test_a_point_in_the_margin_is_pushed_to_the_nearest_free_face() -> None:
    inside = np.array([0.53, 0.01, 0.05])
    out = pushed_out(inside, [POST], 0.03, BOUNDS)
    np.testing.assert_allclose(out, [0.555, 0.01, 0.05])
    other = ObstacleConfig('other', 'box', (0.05, 0.1, 0.4), (0.58, 0.0, 0.2))
    out = pushed_out(inside, [POST, other], 0.03, BOUNDS)
    assert out is None or distance(out, [POST, other]) > 0.03 - 1e-6
    free = np.array([0.4, 0.1, 0.05])
    assert pushed_out(free, [POST], 0.03, BOUNDS) is free


def test_a_place_some_way_ahead_lies_on_the_way() -> None:
    way = np.array([[1.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(ahead(np.zeros(2), way, 1.5), [1.0, 0.5])
    np.testing.assert_allclose(ahead(np.zeros(2), way, 9.0), [1.0, 1.0])


@pytest.mark.parametrize('dim', [2, 3])
def test_a_way_round_three_boxes_takes_little_time(dim: int) -> None:
    """It is looked for at each control step; limit far above what it takes (1 ms)."""
    rng = np.random.default_rng(1)
    obstacles = boxes(rng, 3)
    pairs = rng.uniform(BOUNDS[0, :dim], BOUNDS[1, :dim], (100, 2, dim))
    route(*pairs[0], obstacles, 0.03, BOUNDS[:, :dim])
    began = time.perf_counter()
    for start, goal in pairs:
        route(start, goal, obstacles, 0.03, BOUNDS[:, :dim])
    assert (time.perf_counter() - began) / len(pairs) < 0.01
