"""Routes around obstacles are shortest, keep the margin, and are None if there is none."""

import time

import numpy as np
import pytest

from jepa_arm.config import ObstacleConfig
from jepa_arm.robot.routes import (
    is_blocked,
    nearest_free_point,
    obstacle_distance,
    point_along,
    shortest_route,
)

POST = ObstacleConfig('post', 'box', (0.05, 0.05, 0.12), (0.5, 0.0, 0.06))
BOUNDS = np.array([[0.30, -0.27, 0.015], [0.68, 0.27, 0.25]])


def boxes(rng: np.random.Generator, count: int) -> tuple[ObstacleConfig, ...]:
    """Return random posts and walls of any yaw."""
    out = []
    for i in range(count):
        x, y, z = rng.uniform([0.02, 0.02, 0.06], [0.10, 0.15, 0.16])
        place = rng.uniform([0.32, -0.25], [0.66, 0.25])
        yaw = float(rng.uniform(-np.pi, np.pi))
        out.append(ObstacleConfig(f'{i}', 'box', (x, y, z), (*place, z / 2.0), (0.0, 0.0, yaw)))
    return tuple(out)


def min_distance(
    start: np.ndarray, route: np.ndarray, obstacles: tuple[ObstacleConfig, ...]
) -> float:
    """Return the smallest distance (m) to obstacles along a polyline, by dense sampling."""
    corners = np.vstack([start, route])
    points = [
        a + share * (b - a)
        for a, b in zip(corners, corners[1:], strict=False)
        for share in np.linspace(0.0, 1.0, 60)
    ]
    return min(obstacle_distance(point, obstacles) for point in points)


def test_the_route_around_a_post_follows_the_shorter_side_at_the_margin() -> None:
    start, goal = np.array([0.5, -0.2]), np.array([0.51, 0.2])
    route = shortest_route(start, goal, [POST], 0.05)
    assert route is not None
    corners = np.array([[0.575, -0.075], [0.575, 0.075]])
    np.testing.assert_allclose(route, [*corners, goal], atol=1e-9)


def test_the_tip_goes_over_low_and_around_high_obstacles() -> None:
    start, goal = np.array([0.5, -0.2, 0.1]), np.array([0.5, 0.2, 0.1])
    low = ObstacleConfig('low', 'box', (0.18, 0.03, 0.08), (0.5, 0.0, 0.04))
    high = ObstacleConfig('high', 'box', (0.05, 0.05, 0.40), (0.5, 0.0, 0.20))
    over, around = (shortest_route(start, goal, [o], 0.03, BOUNDS) for o in (low, high))
    assert over is not None and around is not None
    np.testing.assert_allclose(over[:, 0], 0.5, atol=1e-9)
    assert over[:, 2].max() == pytest.approx(0.11)
    assert np.all(around[:, 2] == 0.1) and abs(around[0, 0] - 0.5) == pytest.approx(0.055)


def test_the_tip_never_goes_below_an_obstacle_that_its_peg_would_hit() -> None:
    start, goal = np.array([0.5, -0.2, 0.03]), np.array([0.5, 0.2, 0.03])
    bar = ObstacleConfig('bar', 'box', (0.1, 0.02, 0.02), (0.5, 0.0, 0.15))
    shelf = ObstacleConfig('shelf', 'box', (0.3, 0.8, 0.02), (0.5, 0.0, 0.5))
    route, below = (shortest_route(start, goal, [o], 0.03, BOUNDS) for o in (bar, shelf))
    assert route is not None and len(route) > 1
    assert below is not None and len(below) == 1


@pytest.mark.parametrize('dim', [2, 3])
def test_routes_keep_margin_and_bounds_and_bend_only_if_blocked(dim: int) -> None:
    rng, margin = np.random.default_rng(0), 0.03
    found = 0
    for _ in range(60):
        obstacles = boxes(rng, 3)
        start, goal = rng.uniform(BOUNDS[0, :dim], BOUNDS[1, :dim], (2, dim))
        if min(obstacle_distance(p, obstacles) for p in (start, goal)) < margin * 1.5:
            continue
        route = shortest_route(start, goal, obstacles, margin, BOUNDS[:, :dim])
        if route is None:
            continue
        found += 1
        assert min_distance(start, route, obstacles) > margin - 1e-5
        np.testing.assert_array_equal(route[-1], goal)
        assert np.all(route >= BOUNDS[0, :dim] - 1e-5) and np.all(route <= BOUNDS[1, :dim] + 1e-5)
        assert (len(route) == 1) == (not is_blocked(start, goal, obstacles, margin))
    assert found > 15


def test_a_missing_route_is_none() -> None:
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
    assert shortest_route(inside, outside, ring, 0.01) is None
    assert (
        shortest_route(np.array([0.5, 0.0, 0.1]), np.array([0.5, 0.25, 0.1]), ring, 0.01, BOUNDS)
        is None
    )
    assert (
        shortest_route(np.array([0.4, 0.2]), np.array([0.5, 0.0]), [POST], 0.01) is None
    )  # goal in it


@pytest.mark.parametrize('dim', [2, 3])
def test_a_start_within_the_margin_comes_no_nearer(dim: int) -> None:
    start, goal = np.array([0.5, -0.04, 0.03])[:dim], np.array([0.5, 0.2, 0.03])[:dim]
    route = shortest_route(start, goal, [POST], 0.05)
    back = shortest_route(goal, start, [POST], 0.05)
    assert route is not None and back is not None
    assert min_distance(start, route, (POST,)) > obstacle_distance(start, [POST]) - 1e-5
    assert min_distance(goal, back, (POST,)) > obstacle_distance(start, [POST]) - 1e-5
    assert len(route) > 1 and len(back) > 1


def test_spheres_and_capsules_count_with_their_bounding_box() -> None:
    ball = ObstacleConfig('ball', 'sphere', (0.04,), (0.5, 0.0, 0.04))
    post = ObstacleConfig('post', 'capsule', (0.03, 0.2), (0.5, 0.0, 0.1))
    lying = ObstacleConfig('log', 'capsule', (0.03, 0.2), (0.5, 0.0, 0.03), (np.pi / 2, 0.0, 0.0))
    for obstacle, x, y in ((ball, 0.04, 0.04), (post, 0.03, 0.03), (lying, 0.03, 0.13)):
        assert obstacle_distance(np.array([0.5 + x + 0.1, 0.0]), [obstacle]) == pytest.approx(0.1)
        assert obstacle_distance(np.array([0.5, y + 0.1]), [obstacle]) == pytest.approx(0.1)


def test_a_point_in_the_margin_moves_to_the_nearest_free_face() -> None:
    inside = np.array([0.53, 0.01, 0.05])
    out = nearest_free_point(inside, [POST], 0.03, BOUNDS)
    np.testing.assert_allclose(out, [0.555, 0.01, 0.05])
    other = ObstacleConfig('other', 'box', (0.05, 0.1, 0.4), (0.58, 0.0, 0.2))
    out = nearest_free_point(inside, [POST, other], 0.03, BOUNDS)
    assert out is None or obstacle_distance(out, [POST, other]) > 0.03 - 1e-6
    free = np.array([0.4, 0.1, 0.05])
    assert nearest_free_point(free, [POST], 0.03, BOUNDS) is free


def test_a_point_along_a_route_lies_on_it() -> None:
    route = np.array([[1.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(point_along(np.zeros(2), route, 1.5), [1.0, 0.5])
    np.testing.assert_allclose(point_along(np.zeros(2), route, 9.0), [1.0, 1.0])


@pytest.mark.parametrize('dim', [2, 3])
def test_a_route_around_three_boxes_takes_less_than_10_ms(dim: int) -> None:
    """A route is searched in each control step; it takes about 1 ms."""
    rng = np.random.default_rng(1)
    obstacles = boxes(rng, 3)
    pairs = rng.uniform(BOUNDS[0, :dim], BOUNDS[1, :dim], (100, 2, dim))
    shortest_route(*pairs[0], obstacles, 0.03, BOUNDS[:, :dim])
    began = time.perf_counter()
    for start, goal in pairs:
        shortest_route(start, goal, obstacles, 0.03, BOUNDS[:, :dim])
    assert (time.perf_counter() - began) / len(pairs) < 0.01
