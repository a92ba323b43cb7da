"""Lifecycle of the managed nodes: guard and planner.

An unconfigured node only has its parameters. Configuring validates them, loads the files they name
and subscribes; only an active node acts. Design:
https://design.ros2.org/articles/node_lifecycle.html
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState
from rclpy.lifecycle import TransitionCallbackReturn as Return
from rclpy.parameter import Parameter

from .compat import lifecycle_state
from .diagnostics import Diagnostics
from .parameters import declare_settings, parameter, read_settings, reject_unknown_parameters
from .process import SETTING_ERRORS, run_node

S = TypeVar('S')


class Component(Protocol):
    """Configured state of a managed node: exists from configure to cleanup."""

    def activate(self) -> None:
        """Start acting on the robot."""

    def deactivate(self) -> None:
        """Bring the arm to rest and stop acting; return when that is done."""

    def close(self) -> None:
        """Release all resources that are not entities of the node."""

    def set_live(self, values: Mapping[str, Any]) -> None:
        """Apply new values of live parameters, by name."""

    def end(self) -> bool:
        """Return whether the process may end; called repeatedly after a stop signal."""
        ...

    def problems(self) -> list[str]:
        """Return the current problems, one sentence each, for ``/diagnostics``."""
        ...

    def values(self) -> dict[str, object]:
        """Return further values by name, for ``/diagnostics``."""
        ...

    def is_stuck(self) -> bool:
        """Return whether the component should act but cannot."""
        ...


@dataclass(frozen=True)
class LifecycleSettings:
    """Parameters of every managed node."""

    autostart: bool = parameter(
        True, 'configure and activate at start-up; an invalid parameter then ends the node'
    )
    autoactivate: bool = parameter(
        True, 'activate at start-up; false: configure only and wait for activation (autostart)'
    )


class ManagedNode(LifecycleNode):
    """Lifecycle node around a component that is created when the node is configured."""

    def __init__(
        self, name: str, settings_type: type[S], make: Callable[[ManagedNode, S], Component]
    ) -> None:
        """Create an unconfigured node.

        Args:
            name: name of the node.
            settings_type: dataclass whose fields are made by ``parameters.parameter``.
            make: creates the component from the node and its settings.

        Raises:
            ConfigError: an unknown parameter was given.
        """
        self._component: Component | None = None
        self._is_active = self._is_starting = False
        self._component_entities: list[tuple[object, Callable[[Any], object]]] = []
        self._error: Exception | None = None
        self._make_component = lambda: make(self, read_settings(self, settings_type))
        super().__init__(name)
        declare_settings(self, LifecycleSettings, is_fixed=True)
        self._lifecycle = read_settings(self, LifecycleSettings)
        declare_settings(self, settings_type)
        reject_unknown_parameters(self)
        own = fields(settings_type)  # pyright: ignore[reportArgumentType]
        self._is_live = {each.name: each.metadata['is_live'] for each in own}
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._diagnostics = Diagnostics(
            self, self._problems, self._values, self._is_stuck, self._arm_name
        )

    def start(self) -> None:
        """Configure and activate the node as ``autostart`` and ``autoactivate`` demand.

        Raises:
            Exception: the error of the transition that failed.
        """
        if not self._lifecycle.autostart:
            self.get_logger().info('unconfigured: waiting for a lifecycle manager')
            return
        self._is_starting = True
        triggers = [self.trigger_configure, self.trigger_activate]
        for trigger in triggers if self._lifecycle.autoactivate else triggers[:1]:
            if trigger() is not Return.SUCCESS:
                assert self._error is not None
                raise self._error
        self._is_starting = False
        if not self._lifecycle.autoactivate:
            self.get_logger().info('configured: waiting for activation')

    def end(self) -> bool:
        """Return whether the process may end; called repeatedly after a stop signal."""
        return self._component is None or self._component.end()

    def destroy_node(self) -> None:
        """Release the component without an orderly stop, then destroy the node."""
        self._is_active = False
        self._release()
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()  # else it keeps the node alive

    # Diagnostics.

    def _problems(self) -> list[str]:
        if self._component is not None:
            return self._component.problems()
        state = lifecycle_state(self)
        if state == 'finalized':
            return ['finalized: the node was shut down; end its process and start it again']
        name = self.get_fully_qualified_name()
        advice = f'{state}: not running; configure it (ros2 lifecycle set {name} configure)'
        return [advice, *([] if self._error is None else [f'last error: {self._error}'])]

    def _values(self) -> dict[str, object]:
        return {} if self._component is None else self._component.values()

    def _is_stuck(self) -> bool:
        return self._component is not None and self._component.is_stuck()

    def _arm_name(self) -> str:
        return str(self.get_parameter_or('arm', Parameter('arm', value='')).value)

    # Transitions.

    def on_configure(self, state: LifecycleState) -> Return:
        """Create the component; if a setting is invalid, fail and leave nothing behind."""
        return self._attempt(self._configure)

    def on_activate(self, state: LifecycleState) -> Return:
        """Activate the component."""
        return self._attempt(lambda: self._activate(state))

    def on_deactivate(self, state: LifecycleState) -> Return:
        """Deactivate the component."""
        return self._attempt(lambda: self._deactivate(state))

    def on_cleanup(self, state: LifecycleState) -> Return:
        """Release the component."""
        return self._attempt(self._release)

    def on_shutdown(self, state: LifecycleState) -> Return:
        """Deactivate and release the component from any state."""
        return self._attempt(self._release)

    def on_error(self, state: LifecycleState) -> Return:
        """Release the component after an unexpected error of a transition."""
        self._release()
        return Return.SUCCESS

    def _attempt(self, transition: Callable[[], None]) -> Return:
        """Run a transition and log its exception, which rclpy would drop."""
        try:
            transition()
        except Exception as error:
            is_expected = isinstance(error, SETTING_ERRORS)
            self._error = error
            if not self._is_starting:  # start() raises it
                self.get_logger().error(str(error) if is_expected else traceback.format_exc())
            return Return.FAILURE if is_expected else Return.ERROR
        self._error = None
        return Return.SUCCESS

    def _configure(self) -> None:
        before = {id(entity) for entity, _ in self._entities()}
        try:
            self._component = self._make_component()
        finally:
            self._component_entities = [e for e in self._entities() if id(e[0]) not in before]
            if self._component is None:
                self._release()

    def _activate(self, state: LifecycleState) -> None:
        assert self._component is not None
        self._component.activate()
        super().on_activate(state)
        self._is_active = True
        gc.collect()
        gc.freeze()  # exempt existing objects: a full collection costs a control tick or two

    def _deactivate(self, state: LifecycleState) -> None:
        assert self._component is not None
        self._is_active = False
        self._component.deactivate()
        super().on_deactivate(state)

    def _release(self) -> None:
        component, self._component = self._component, None
        is_active, self._is_active = self._is_active, False
        entities, self._component_entities = self._component_entities, []
        try:
            if component is not None and is_active:
                component.deactivate()
        finally:
            if component is not None:
                component.close()
            for entity, destroy in entities:
                destroy(entity)
            gc.unfreeze()

    def _entities(self) -> list[tuple[object, Callable[[Any], object]]]:
        """Return all entities of the node, each with the function that destroys it."""
        return [
            *((entity, self.destroy_lifecycle_publisher) for entity in self.publishers),
            *((entity, self.destroy_subscription) for entity in self.subscriptions),
            *((entity, self.destroy_service) for entity in self.services),
            *((entity, self.destroy_client) for entity in self.clients),
            *((entity, self.destroy_timer) for entity in self.timers),
        ]

    def _on_set_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        if self._component is None:
            return SetParametersResult(successful=True)
        own = {p.name: p.value for p in parameters if p.name in self._is_live}
        changed = {name: value for name, value in own.items() if self._is_live[name]}
        names = sorted(own.keys() - changed.keys())
        if names:
            reason = f'{", ".join(names)}: read when the node is configured; clean it up first'
            return SetParametersResult(successful=False, reason=reason)
        if changed:
            self._component.set_live(changed)
            self.get_logger().info(', '.join(f'{n} is now {v:g}' for n, v in changed.items()))
        return SetParametersResult(successful=True)


def run_managed(
    name: str, settings_type: type[S], make: Callable[[ManagedNode, S], Component]
) -> None:
    """Run a managed node until a stop signal; see ``ManagedNode`` and ``process.run_node``."""

    def make_and_start() -> ManagedNode:
        node = ManagedNode(name, settings_type, make)
        try:
            node.start()
        except BaseException:
            node.destroy_node()
            raise
        return node

    run_node(name, make_and_start, ManagedNode.end)
