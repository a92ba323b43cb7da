"""What the camera will show when the present plan ends, as an image for people."""

from __future__ import annotations

from rclpy.clock import Clock, ClockType  # pyright: ignore[reportPrivateImportUsage]
from rclpy.node import Node
from sensor_msgs.msg import Image

from ..model.checkpoint import Checkpoint
from ..model.decoder import HOW_TO_GET_ONE, load_decoder
from . import conversions as convert
from .parameters import STATUS
from .plan_view import PlanView

PERIOD_S = 0.5


class ImaginedView:
    """Publishes ``planner/imagined`` twice a second while somebody listens and plans are made.

    Pictures are drawn by the thread of the callbacks; the planning thread has no part in it.
    """

    def __init__(self, node: Node, checkpoint: Checkpoint, view: PlanView) -> None:
        """Publishes from now on.

        Args:
            node: of the topic.
            checkpoint: with the decoder; without one a listener is told what to do.
            view: that knows where the present plan ends.

        Raises:
            CheckpointError: the decoder is broken, or was made for other weights.
        """
        self._node, self._view = node, view
        self._decoder, self._name = load_decoder(checkpoint), checkpoint.folder.name
        self._frame_id = checkpoint.contract.camera.frame_id
        self._shown_stamp, self._is_told = -1.0, False
        self._publisher = node.create_publisher(Image, 'planner/imagined', STATUS)
        node.create_timer(PERIOD_S, self._show, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _show(self) -> None:
        if not self._publisher.get_subscription_count():
            return
        if self._decoder is None:
            if not self._is_told:
                self._node.get_logger().warning(
                    f'planner/imagined: the checkpoint {self._name} has no decoder; '
                    f'{HOW_TO_GET_ONE}'
                )
            self._is_told = True
            return
        end = self._view.plan_end
        if end is None or end.stamp == self._shown_stamp:
            return
        self._shown_stamp = end.stamp
        picture = self._decoder.pictures(end.latent[None])[0]
        stamp = convert.to_time(end.stamp)
        self._publisher.publish(convert.image_to_msg(picture, stamp, self._frame_id))
