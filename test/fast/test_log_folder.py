"""Log folders: the output of nodes goes to the log folder of ROS."""

from pathlib import Path

import pytest

from jepa_arm.ros.runtime.environment import ros_log_folder, run_log_folder


@pytest.mark.parametrize(
    ('log_dir', 'home', 'expected'),
    [
        ('/var/log/arm', '/opt/home', '/var/log/arm'),
        ('', '/opt/home', '/opt/home/log'),
        ('', '', '/home/robot/.ros/log'),
        ('~/logs', '', '/home/robot/logs'),
    ],
)
def test_log_folder_follows_the_variables_of_ros(
    log_dir: str, home: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HOME', '/home/robot')
    monkeypatch.setenv('ROS_LOG_DIR', log_dir)
    monkeypatch.setenv('ROS_HOME', home)
    assert ros_log_folder() == Path(expected)
    logging = pytest.importorskip('rclpy.logging', reason='ROS 2 is not installed')
    assert ros_log_folder() == logging.get_logging_directory()


def test_each_run_gets_its_own_folder_which_is_not_created_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('ROS_LOG_DIR', str(tmp_path))
    first, second = run_log_folder(), run_log_folder()
    assert first.parent == tmp_path and first != second
    assert not list(tmp_path.iterdir())
