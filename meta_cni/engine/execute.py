"""
Doing a plan, undoing it, checking it.

prepare() constructs every delegate, so that nothing is touched unless everything is right.
run() attaches in order, and on any exception, even a bug of ours, undoes in reverse, the
failing step included. undo() tries everything, and says exactly what could not be undone.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from meta_cni.cni import result as results
from meta_cni.cni.config import PluginConfig, parse_plugin
from meta_cni.cni.errors import BadConfig, CNIError, NetnsGone, join
from meta_cni.cni.result import IPConfig, Result
from meta_cni.cni.version import NEWEST, at_least
from meta_cni.delegate import Delegate
from meta_cni.engine import default_route, device_info
from meta_cni.engine.ledger import Executed, Record
from meta_cni.engine.plan import DefaultRoute, Plan, Step
from meta_cni.engine.status import complete
from meta_cni.linux import address, device, link
from meta_cni.linux.namespaces import Namespaces
from meta_cni.quick import quick

AT_ONCE = 8
Task = TypeVar("Task")
Answer = TypeVar("Answer")

Deletion = Callable[[], None]
Construct = Callable[[Record, Executed, PluginConfig, Namespaces], Delegate]
"""Make the delegate of one plugin; raises BadConfig when its configuration is wrong."""


@quick
@dataclass(frozen=True, slots=True)
class Prepared:
    """An attachment whose delegates are constructed and which has touched nothing yet."""

    record: Record
    delegates: tuple[Delegate, ...]
    previous: Result | None = None
    """What its first plugin comes behind, beside what the runtime says."""


def records_of(plan: Plan, request_network: str, path: tuple[str, ...], identity: str) -> tuple[Record, ...]:
    """What the ledger is to keep of a plan, before anything is touched."""
    return tuple(
        Record(
            container_id=plan.container_id,
            request=plan.interface,
            request_network=request_network,
            network=step.network,
            interface=step.interface,
            config_name=step.config_name,
            cni_version=step.cni_version,
            netns=plan.netns,
            netns_identity=identity,
            executed=tuple(
                Executed(
                    each.plugin.type, each.is_builtin, each.plugin.raw.text(), each.binary, each.ipam_policy
                )
                for each in step.executions
            ),
            cni_args=dict(step.cni_args),
            path=path,
            deadline_s=step.deadline_s,
            group=step.group,
            device=step.device,
            resource=step.resource,
            device_info=step.device_info,
            is_default=step.is_default,
            is_check_disabled=step.is_check_disabled,
            is_route_requested=step.default_route is not None,
            is_side_by_side=step.is_side_by_side,
            turn=step.turn,
        )
        for step in plan.steps
    )


def prepare(
    plan: Plan, records: Sequence[Record], construct: Construct, namespaces: Namespaces
) -> tuple[Prepared, ...]:
    """Construct every delegate and look at the pod; raises one error with every mistake."""
    errors: list[CNIError] = []
    prepared: list[Prepared] = []
    present = link.indexes(namespaces.pod, [step.interface for step in plan.steps])
    for step, record in zip(plan.steps, records, strict=True):
        try:
            _look(step, present, namespaces)
            delegates = tuple(
                construct(record, executed, execution.plugin, namespaces)
                for executed, execution in zip(record.executed, step.executions, strict=True)
            )
            prepared.append(Prepared(record, delegates, Result() if step.is_continued else None))
        except CNIError as error:
            errors.append(error)
    if errors:
        raise join(errors)
    return tuple(prepared)


def _look(step: Step, present: Collection[str], namespaces: Namespaces) -> None:
    """The name must be free in the pod, and the device must be there."""
    if step.interface != "lo" and step.interface in present:
        raise BadConfig(
            f"{step.where}: interface {step.interface} already exists in {namespaces.path}: "
            "expected a free name"
        )
    is_address = not step.resource or device.is_pci_address(step.device)
    if step.device and is_address and not device.exists(step.device):
        raise BadConfig(
            f"{step.where}: device {step.device} is not there: "
            "expected a PCI or auxiliary-bus address of this node"
        )


def run(
    prepared: Sequence[Prepared],
    decisions: Sequence[DefaultRoute],
    previous: Result | None,
    namespaces: Namespaces,
    done: dict[str, Result],
) -> tuple[Result, ...]:
    """
    Attach in order, and settle the default routes; returns what each attachment has become.

    `done` gets, by interface, what each attachment has answered so far: undoing them needs it.
    """
    is_deciding = default_route.is_needed(decisions, len(prepared))
    before = default_route.Brought("", ())
    if is_deciding:
        before = default_route.take_away(namespaces.pod, "")
    try:
        return _run(prepared, decisions, previous, namespaces, before if is_deciding else None, done)
    except BaseException:
        if before.routes:
            default_route.put_back(namespaces.pod, before)
        raise


def _run(
    prepared: Sequence[Prepared],
    decisions: Sequence[DefaultRoute],
    previous: Result | None,
    namespaces: Namespaces,
    before: default_route.Brought | None,
    done: dict[str, Result],
) -> tuple[Result, ...]:
    """As run(), with what was taken away before the first attachment; None when nothing is decided."""
    brought: dict[str, default_route.Brought] = {}
    is_builtin = all(each.record.is_builtin for each in prepared)
    for each in sorted(prepared, key=lambda each: each.record.turn):
        if each.record.is_side_by_side:
            continue
        name = each.record.interface
        done[name] = _attach(each, previous if each.record.is_default else each.previous, namespaces)
        if before is not None and not is_builtin:
            brought[name] = _taken(each.record, done[name], namespaces)
    _attach_side_by_side(prepared, namespaces, done)
    names = [each.record.interface for each in prepared]
    if before is None:
        return tuple(done[name] for name in names)
    there = default_route.present(namespaces.pod) if is_builtin else ()
    left = default_route.by_interface(namespaces.pod, there)
    brought.update({name: default_route.Brought(name, routes) for name, routes in left.items()})
    brought.update(_taken_apart(prepared, namespaces))
    theirs = [brought.get(name) or default_route.Brought(name, ()) for name in names]
    installed = default_route.settle(namespaces.pod, decisions, before, theirs, there)
    if installed != there:
        left = default_route.by_interface(namespaces.pod, installed)
    return tuple(default_route.rewrite(done[name], left.get(name, ())) for name in names)


def _attach_side_by_side(
    prepared: Sequence[Prepared], namespaces: Namespaces, done: dict[str, Result]
) -> None:
    """
    Run those attachments at the same time that were planned so; every one ends before this does.

    Raises one error with everything that failed. All of them are executed: nothing of theirs is
    shared between the threads, and the pod is looked at by this one alone.
    """
    apart = [each for each in prepared if each.record.is_side_by_side]

    def attach(each: Prepared) -> None:
        done[each.record.interface] = _run_delegates(each, each.previous)

    _, errors = _all_at_once(attach, apart)
    if errors:
        raise join(errors)
    for each in apart:
        done[each.record.interface] = _completed(each.record, done[each.record.interface], namespaces)


def _all_at_once(
    function: Callable[[Task], Answer], tasks: Sequence[Task]
) -> tuple[list[Answer], list[CNIError]]:
    """What the function answers to each task, and what went wrong; a bug of ours is raised as it is."""
    if not tasks:
        return [], []
    with ThreadPoolExecutor(min(len(tasks), AT_ONCE)) as pool:
        futures = [pool.submit(function, each) for each in tasks]
    errors = [error for error in (each.exception() for each in futures) if error is not None]
    for error in errors:
        if not isinstance(error, CNIError):
            raise error
    told = [error for error in errors if isinstance(error, CNIError)]
    return [] if told else [each.result() for each in futures], told


def _taken_apart(prepared: Sequence[Prepared], namespaces: Namespaces) -> dict[str, default_route.Brought]:
    """The default routes that came with attachments made side by side, by the links they go through."""
    names = [each.record.interface for each in prepared if each.record.is_side_by_side]
    if not names:
        return {}
    found = default_route.take_away(namespaces.pod, "")
    indexes = link.indexes(namespaces.pod, names)
    return {
        name: default_route.Brought(
            name, tuple(each for each in found.routes if each.interface_index == indexes.get(name))
        )
        for name in names
    }


def _taken(record: Record, result: Result, namespaces: Namespaces) -> default_route.Brought:
    """The default routes that came with an attachment; what a built-in does not tell it has not made."""
    if record.is_builtin and not any(each.is_default for each in result.routes):
        return default_route.Brought(record.interface, ())
    return default_route.take_away(namespaces.pod, record.interface)


def _attach(prepared: Prepared, previous: Result | None, namespaces: Namespaces) -> Result:
    """Attach to one network, and look for what its plugins did not tell."""
    return _completed(prepared.record, _run_delegates(prepared, previous), namespaces)


def _run_delegates(prepared: Prepared, previous: Result | None = None) -> Result:
    """Run the delegates of one network; each gets what the one before answered."""
    result = previous
    for delegate in prepared.delegates:
        result = delegate.add(result)
    return result if result is not None else Result()


def _completed(record: Record, result: Result, namespaces: Namespaces) -> Result:
    is_told = any(each.name == record.interface and each.sandbox for each in result.interfaces)
    if is_told and all(each.interface is not None for each in result.ips):
        return result
    found = link.find(namespaces.pod, record.interface)
    if found is None:
        return result
    configured = [] if result.ips else address.dump(namespaces.pod, found.index)
    return complete(
        result,
        record.interface,
        record.netns,
        results.Interface(found.name, found.mac),
        [IPConfig(each.address) for each in configured if not each.address.ip.is_link_local],
    )


def undo(
    records: Sequence[Record], construct: Construct, namespaces: Namespaces
) -> tuple[tuple[Record, ...], tuple[CNIError, ...]]:
    """
    Detach in reverse order; everything is tried.

    Returns the records that are still to be undone, in their order, and the errors. The links
    of an unbroken run of built-in attachments are deleted in one message before their delegates
    release what belongs to them: each deletion of its own waits for a grace period of the kernel.
    """
    failures = _detach_side_by_side(records, construct, namespaces)
    errors: list[CNIError] = []
    deletions: dict[str, list[Deletion]] = {}

    def construct_all(group: int) -> None:
        for each in records:
            if each.group == group:
                deletions[each.interface] = _deletions(each, construct, namespaces)

    groups: set[int] = set()
    for record in reversed(sorted(records, key=lambda each: each.turn)):
        if record.group and record.group not in groups:
            groups.add(record.group)
            errors.extend(_delete_group(record.group, namespaces, partial(construct_all, record.group)))
        if not record.is_side_by_side:
            mine = deletions.get(record.interface) or _deletions(record, construct, namespaces)
            failures[record.interface] = _detach(record, mine)
        errors.extend(failures[record.interface])
    return tuple(each for each in records if failures[each.interface]), tuple(errors)


def _detach_side_by_side(
    records: Sequence[Record], construct: Construct, namespaces: Namespaces
) -> dict[str, list[CNIError]]:
    """Detach at the same time what was attached so; the failures by interface."""
    apart = [each for each in records if each.is_side_by_side]
    if not apart:
        return {}
    if namespaces.is_gone:  # looked for here: another thread must not open it
        namespaces = Namespaces("")

    def detach(record: Record) -> list[CNIError]:
        return _detach(record, _deletions(record, construct, namespaces))

    answers, _ = _all_at_once(detach, apart)
    return {each.interface: failures for each, failures in zip(apart, answers, strict=True)}


def _delete_group(group: int, namespaces: Namespaces, meanwhile: Callable[[], None]) -> list[CNIError]:
    """Delete the links of a group; `meanwhile` is called while the kernel is at it, if there are any."""
    try:
        if not namespaces.is_gone:
            link.remove_group(namespaces.pod, group, meanwhile)
    except NetnsGone:
        return []
    except CNIError as error:
        return [error]
    return []


def _deletions(record: Record, construct: Construct, namespaces: Namespaces) -> list[Deletion]:
    """What undoes an attachment, in its order; nothing is touched, and no mistake is told before its turn."""
    found: list[Deletion] = []
    previous = _previous(record)
    for executed in reversed(record.executed):
        try:
            found.append(construct(record, executed, _plugin(record, executed, previous), namespaces).delete)
        except Exception as error:  # noqa: BLE001 - raised when its turn comes
            found.append(partial(_raise, error))
    return found


def _raise(error: Exception) -> None:
    raise error


def _detach(record: Record, deletions: Sequence[Deletion]) -> list[CNIError]:
    failures: list[CNIError] = []
    for delete in deletions:
        try:
            delete()
        except CNIError as error:
            where = f"detach {record.interface} from network {record.network}"
            failures.append(prefixed(error, where))
        except Exception as error:  # noqa: BLE001 - a bug in one delegate must not keep the others
            text = f"detach {record.interface} from network {record.network}: {error!r}"
            failures.append(CNIError(text))
    if not failures:
        failures.extend(_forget_device(record))
    return failures


def _forget_device(record: Record) -> list[CNIError]:
    try:
        device_info.remove(record)
    except CNIError as error:
        return [error]
    return []


def prefixed(error: CNIError, where: str) -> CNIError:
    """The error, with what it is about before its text."""
    told = CNIError(f"{where}: {error.message}", error.details)
    told.code = error.code
    return told


def check(records: Sequence[Record], construct: Construct, namespaces: Namespaces) -> None:
    """Ask every delegate whether its attachment is as ADD left it; the first difference is raised."""
    for record in records:
        if record.is_check_disabled or record.result is None:
            continue
        if not at_least(record.cni_version, "0.4.0"):
            continue
        try:
            _check(record, record.result, construct, namespaces)
        except CNIError as error:
            raise prefixed(error, f"{record.interface} of network {record.network}") from None


def _check(record: Record, told: Mapping[str, Any], construct: Construct, namespaces: Namespaces) -> None:
    """Ask the delegates of one attachment, which has answered with this."""
    result, previous = results.parse(told, NEWEST), _previous(record)
    for executed in record.executed:
        construct(record, executed, _plugin(record, executed, previous), namespaces).check(result)


def _previous(record: Record) -> Mapping[str, Any] | None:
    """The Result as prevResult; None where there is none, or none yet (before 0.4.0)."""
    if record.result is None or not at_least(record.cni_version, "0.4.0"):
        return None
    if at_least(record.cni_version, "1.0.0"):  # they differ in nothing that a result has
        return {**record.result, "cniVersion": record.cni_version}
    return results.to_json(results.parse(record.result, NEWEST), record.cni_version)


def _plugin(record: Record, executed: Executed, previous: Mapping[str, Any] | None) -> PluginConfig:
    """The configuration a plugin had at ADD, now with the Result as prevResult."""
    where = f"network {record.network}"
    plugin = parse_plugin(executed.stdin, where, network=record.config_name, cni_version=record.cni_version)
    return plugin if previous is None else plugin.execution({"prevResult": previous})
