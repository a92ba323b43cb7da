"""The output of nodes goes where ROS users look for it."""

from pathlib import Path

import pytest

from jepa_arm.nodes.log_folder import ros_log_folder, run_log_folder


@pytest.mark.parametrize(
    ('log_dir', 'home', 'expected'),
    [
        ('/var/log/arm', '/opt/home', '/var/log/arm'),
        ('', '/opt/home', '/opt/home/log'),
        ('', '', '/home/robot/.ros/log'),
        ('~/logs', '', '/home/robot/logs'),
    ],
)
def test_the_variables_of_ros_say_where(
    log_dir: str, home: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HOME', '/home/robot')
    monkeypatch.setenv('ROS_LOG_DIR', log_dir)
    monkeypatch.setenv('ROS_HOME', home)
    assert ros_log_folder() == Path(expected)
    logging = pytest.importorskip('rclpy.logging', reason='ROS 2 is not installed')
    assert ros_log_folder() == logging.get_logging_directory()


def test_each_run_has_a_folder_of_its_own_that_nobody_makes_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('ROS_LOG_DIR', str(tmp_path))
    first, second = run_log_folder(), run_log_folder()
    assert first.parent == tmp_path and first != second
    assert not list(tmp_path.iterdir())
