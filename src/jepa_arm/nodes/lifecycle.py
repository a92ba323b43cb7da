"""Managed nodes, as ``ros2 lifecycle`` knows them: what the guard's and the planner's share.

Unconfigured, a node has its parameters alone. Configuring checks them, loads what they name and
listens; only an active node acts. Design: https://design.ros2.org/articles/node_lifecycle.html
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState
from rclpy.lifecycle import TransitionCallbackReturn as Return
from rclpy.node import Node
from rclpy.parameter import Parameter

from .compat import declared_parameters, state_name
from .diagnostics import Diagnostics
from .parameters import check_known, declare, is_live
from .process import BAD_SETTING, run

S = TypeVar('S')


class Part(Protocol):
    """What a node does from being configured until it is cleaned up."""

    def activate(self) -> None:
        """Acts from now on."""

    def deactivate(self) -> None:
        """Comes to rest and acts no more; returns when that is so."""

    def close(self) -> None:
        """Frees what is not an entity of the node."""

    def set_live(self, values: Mapping[str, Any]) -> None:
        """Takes new values of the parameters that may change at any time, by name."""

    def end(self) -> bool:
        """Called again and again once a signal came; True when the process may end."""
        ...

    def problems(self) -> list[str]:
        """What is wrong, for ``/diagnostics``."""
        ...

    def values(self) -> dict[str, object]:
        """What else there is to know, by name, for ``/diagnostics``."""
        ...

    def is_stuck(self) -> bool:
        """Whether it does not do its work, though it should."""
        ...


class ManagedNode(LifecycleNode):
    """A lifecycle node around a part that is made by configuring."""

    def __init__(
        self,
        name: str,
        read: Callable[[Node], S],
        make: Callable[[ManagedNode, S], Part],
    ) -> None:
        """Stands unconfigured.

        Args:
            name: of the node.
            read: declares the parameters, or reads them again where they are declared.
            make: the part, from what was read.

        Raises:
            ConfigError: a parameter was given that the node does not have.
        """
        self._part: Part | None = None
        self._is_active = self._is_starting = False
        self._made: list[tuple[object, Callable[[Any], object]]] = []
        self._problem: Exception | None = None
        self._configure: Callable[[], Part] = lambda: make(self, read(self))
        super().__init__(name)
        text = 'configure and activate at the start; a setting that cannot be used ends the node'
        self._autostart = bool(declare(self, 'autostart', True, text, is_fixed=True))
        text = 'with autostart: activate, too; false: configured, it waits to be activated'
        self._autoactivate = bool(declare(self, 'autoactivate', True, text, is_fixed=True))
        own = declared_parameters(self)
        read(self)
        check_known(self)
        declared = declared_parameters(self) - own
        self._live = {n for n in declared if is_live(self, n)}
        self._settings = declared - self._live
        self.add_on_set_parameters_callback(self._on_set)
        self._diagnostics = Diagnostics(
            self,
            self._problems,
            self._values,
            self._is_stuck,
            lambda: str(self.get_parameter_or('arm', Parameter('arm', value='')).value),
        )

    def start(self) -> None:
        """Configures and activates, where ``autostart`` and ``autoactivate`` say so.

        Raises:
            Exception: what failed.
        """
        if not self._autostart:
            self.get_logger().info('unconfigured: waits for its lifecycle manager')
            return
        self._is_starting = True
        triggers = [self.trigger_configure, self.trigger_activate]
        for trigger in triggers if self._autoactivate else triggers[:1]:
            if trigger() is not Return.SUCCESS:
                assert self._problem is not None
                raise self._problem
        self._is_starting = False
        if not self._autoactivate:
            self.get_logger().info('configured: waits to be activated')

    def end(self) -> bool:
        """An ordered end after a signal; True when the process may end."""
        return self._part is None or self._part.end()

    def destroy_node(self) -> None:
        """Frees the part first, as it is."""
        self._is_active = False
        self._dispose()
        super().destroy_node()

    # Diagnostics, in every state.

    def _problems(self) -> list[str]:
        if self._part is not None:
            return self._part.problems()
        state = state_name(self)
        if state == 'finalized':
            return ['finalized: it was shut down; end its process and start it again']
        name = self.get_fully_qualified_name()
        advice = f'{state}: does nothing; configure it (ros2 lifecycle set {name} configure)'
        return [advice, *([] if self._problem is None else [f'failed before: {self._problem}'])]

    def _values(self) -> dict[str, object]:
        return {} if self._part is None else self._part.values()

    def _is_stuck(self) -> bool:
        return self._part is not None and self._part.is_stuck()

    # Transitions.

    def on_configure(self, state: LifecycleState) -> Return:
        """Makes the part; what cannot be used is a failure, and leaves nothing behind."""
        return self._attempt(self._make)

    def on_activate(self, state: LifecycleState) -> Return:
        """Has the part act."""
        return self._attempt(lambda: self._activate(state))

    def on_deactivate(self, state: LifecycleState) -> Return:
        """Has the part come to rest."""
        return self._attempt(lambda: self._deactivate(state))

    def on_cleanup(self, state: LifecycleState) -> Return:
        """Frees the part."""
        return self._attempt(self._dispose)

    def on_shutdown(self, state: LifecycleState) -> Return:
        """The same, from any state."""
        return self._attempt(self._dispose)

    def on_error(self, state: LifecycleState) -> Return:
        """After a transition failed in a way that nobody foresaw: unconfigured."""
        self._dispose()
        return Return.SUCCESS

    def _attempt(self, act: Callable[[], None]) -> Return:
        """rclpy would drop an exception of a transition; here it is told."""
        try:
            act()
        except Exception as error:
            is_foreseen = isinstance(error, BAD_SETTING)
            self._problem = error
            if not self._is_starting:  # else it is raised
                text = str(error) if is_foreseen else traceback.format_exc()
                self.get_logger().error(text)
            return Return.FAILURE if is_foreseen else Return.ERROR
        self._problem = None
        return Return.SUCCESS

    def _make(self) -> None:
        before = [id(entity) for entity, _ in self._entities()]
        try:
            self._part = self._configure()
        finally:
            self._made = [pair for pair in self._entities() if id(pair[0]) not in before]
            if self._part is None:
                self._dispose()

    def _activate(self, state: LifecycleState) -> None:
        assert self._part is not None
        self._part.activate()
        super().on_activate(state)
        self._is_active = True
        gc.collect()
        gc.freeze()  # what is here stays: looking through it costs a tick or two

    def _deactivate(self, state: LifecycleState) -> None:
        assert self._part is not None
        self._is_active = False
        self._part.deactivate()
        super().on_deactivate(state)

    def _dispose(self) -> None:
        part, self._part = self._part, None
        is_active, self._is_active = self._is_active, False
        made, self._made = self._made, []
        try:
            if part is not None and is_active:
                part.deactivate()
        finally:
            if part is not None:
                part.close()
            for entity, destroy in made:
                destroy(entity)
            gc.unfreeze()

    def _entities(self) -> list[tuple[object, Callable[[Any], object]]]:
        """All that the node has, each with what destroys it."""
        return [
            *((entity, self._destroy_any_publisher) for entity in self.publishers),
            *((entity, self.destroy_subscription) for entity in self.subscriptions),
            *((entity, self.destroy_service) for entity in self.services),
            *((entity, self.destroy_client) for entity in self.clients),
            *((entity, self.destroy_timer) for entity in self.timers),
        ]

    def _destroy_any_publisher(self, publisher: Any) -> None:
        if isinstance(publisher, LifecyclePublisher):
            self.destroy_lifecycle_publisher(publisher)
        else:
            self.destroy_publisher(publisher)

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        names = sorted({p.name for p in parameters} & self._settings)
        if names and self._part is not None:
            reason = f'{", ".join(names)}: read when the node is configured; clean it up before'
            return SetParametersResult(successful=False, reason=reason)
        changed = {p.name: p.value for p in parameters if p.name in self._live}
        if changed and self._part is not None:
            self._part.set_live(changed)
            self.get_logger().info(', '.join(f'{n} is {v:g} now' for n, v in changed.items()))
        return SetParametersResult(successful=True)


def run_managed(
    name: str,
    read: Callable[[Node], S],
    make: Callable[[ManagedNode, S], Part],
) -> None:
    """Runs a managed node until one of ``ENDS``; ends the process as ``run`` does.

    Args:
        name, read, make: as ``ManagedNode`` takes them.
    """

    def started() -> ManagedNode:
        node = ManagedNode(name, read, make)
        try:
            node.start()
        except BaseException:
            node.destroy_node()
            raise
        return node

    run(name, started, ManagedNode.end)
