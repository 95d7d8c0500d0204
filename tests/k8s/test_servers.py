"""
Objects by their verbs on an API server: what is found, what is refused, and what is told of it.

Every test runs on the stand-in and on kube-apiserver, so every answer expected here is the real one's.
"""

import itertools
from typing import Any

import pytest

from meta_cni.k8s import api_store
from meta_cni.k8s.informer import AT_HAND
from meta_cni.k8s.store import (
    EVERY,
    AlreadyExists,
    Conflict,
    Event,
    Expired,
    Forbidden,
    Invalid,
    Kind,
    NotFound,
    Object,
    Replaced,
    Selector,
)
from tests.k8s.conftest import Place
from tests.k8s.test_informer import until

NAD = Kind.NETWORK_ATTACHMENT_DEFINITION
WATCH_S = 30.0
ANOTHER = "00000000-0000-0000-0000-000000000000"
STATUS = "k8s.v1.cni.cncf.io/network-status"


def pod(place: Place, name: str, *, node: str = "", **metadata: Any) -> Object:
    """One that a server accepts as it is."""
    spec: Object = {"containers": [{"name": "c", "image": "none"}], **({"nodeName": node} if node else {})}
    about = {"name": name, "namespace": place.namespace, **metadata}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}


def network(place: Place, name: str, config: str = "{}", **metadata: Any) -> Object:
    """As applied."""
    about = {"name": name, "namespace": place.namespace, **metadata}
    kind = {"apiVersion": NAD.value.api_version, "kind": NAD.value.kind}
    return {**kind, "metadata": about, "spec": {"config": config}}


def annotated(text: str, **metadata: Any) -> Object:
    """A merge patch of the network-status."""
    return {"metadata": {"annotations": {STATUS: text}, **metadata}}


def names(objects: Any) -> list[str]:
    """Of objects, in their order."""
    return [each["metadata"]["name"] for each in objects]


def heard(
    place: Place,
    kind: Kind,
    version: str,
    count: int,
    selector: Selector = EVERY,
    *,
    is_everywhere: bool = False,
) -> list[Event]:
    """The next changes since a version, of our namespace or of all, bookmarks aside."""
    watch = place.store.watch(kind, None if is_everywhere else place.namespace, version, WATCH_S, selector)
    return list(itertools.islice((each for each in watch if each.type != "BOOKMARK"), count))


def test_what_was_created_is_there_with_what_the_server_gives_it(place: Place):
    """UID and resource version are what everything else stands on."""
    made = place.store.create(NAD, network(place, "n"))

    assert made == place.store.get(NAD, place.namespace, "n")
    assert made["metadata"]["uid"]
    assert made["metadata"]["resourceVersion"]
    assert ("k8s.cni.cncf.io/v1", "NetworkAttachmentDefinition") == (made["apiVersion"], made["kind"])


@pytest.mark.parametrize("kind", [NAD, Kind.POD], ids=lambda each: each.value.plural)
def test_what_is_not_there_is_told_by_its_name(place: Place, kind: Kind):
    """Not by a CRD that is missing: each has a hint of its own."""
    said = rf'{kind.value.kind} {place.namespace}/nobody: {kind.value.plural}.* "nobody" not found'
    if kind is Kind.POD:
        said = said.replace(".*", "")
    for ask in (place.store.get, place.store.delete):
        with pytest.raises(NotFound, match=said) as caught:
            ask(kind, place.namespace, "nobody")
        assert NotFound is caught.type


@pytest.mark.parametrize("subresource", ["", "status"])
def test_what_is_not_there_is_not_patched(place: Place, subresource: str):
    """A pod that went before its status was told."""
    with pytest.raises(NotFound):
        place.store.patch(Kind.POD, place.namespace, "p", annotated("up"), subresource=subresource)


@pytest.mark.parametrize("kind", [NAD, Kind.POD], ids=lambda each: each.value.plural)
def test_a_name_is_given_once(place: Place, kind: Kind):
    """Events of two daemons may have one name."""
    document = network(place, "n") if kind is NAD else pod(place, "n")
    place.store.create(kind, document)

    with pytest.raises(AlreadyExists, match="already exists"):
        place.store.create(kind, document)


def test_a_server_completes_a_name(place: Place):
    """generateName, for whoever has none."""
    made = [place.store.create(NAD, network(place, "", generateName="n-"))["metadata"]["name"] for _ in "ab"]

    assert all(each.startswith("n-") and len(each) > 2 for each in made)
    assert 2 == len(set(made))


@pytest.mark.parametrize("name", ["Upper", "under_score", "-dash"])
def test_a_name_that_is_none_is_refused(place: Place, name: str):
    """What is in a store can be named in an annotation."""
    with pytest.raises(Invalid, match=r"metadata\.name"):
        place.store.create(NAD, network(place, name))


def test_a_list_is_the_same_in_pages(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Each page has the version of the whole, and its objects say what they are."""
    monkeypatch.setattr(api_store, "PAGE", 2)
    for name in "cabed":
        place.store.create(NAD, network(place, name))

    pages = list(place.store.pages(NAD, place.namespace))

    assert [["a", "b"], ["c", "d"], ["e"]] == [names(page) for page, _ in pages]
    assert 1 == len({version for _, version in pages})
    assert {"NetworkAttachmentDefinition"} == {each["kind"] for page, _ in pages for each in page}
    assert list("abcde") == names(place.store.list(NAD, place.namespace)[0])


def test_what_a_server_has_at_hand_comes_in_one_piece(place: Place, monkeypatch: pytest.MonkeyPatch):
    """However little was asked for; so a daemon's first list may be large."""
    monkeypatch.setattr(api_store, "PAGE", 2)
    for name in "abc":
        place.store.create(NAD, network(place, name))

    def at_hand() -> list[list[str]]:
        found = place.store.pages(NAD, place.namespace, EVERY, AT_HAND, lambda each: each["metadata"])
        return [[each["name"] for each in page] for page, _ in found]

    until(lambda: sum(map(len, at_hand())) == 3)  # what is at hand may be older
    assert [list("abc")] == at_hand()


def test_objects_are_chosen_by_node_and_by_labels(place: Place):
    """A daemon must not be told of the pods of others."""
    place.store.create(Kind.POD, pod(place, "here", node="n1"))
    place.store.create(Kind.POD, pod(place, "there", node="n2", labels={"a": "b"}))
    place.store.create(Kind.POD, pod(place, "nowhere", labels={"a": "c"}))

    def chosen(**values: Any) -> list[str]:
        return names(place.store.list(Kind.POD, place.namespace, Selector(**values))[0])

    assert ["here"] == chosen(fields={"spec.nodeName": "n1"})
    assert ["nowhere"] == chosen(fields={"spec.nodeName": ""})
    assert ["there"] == chosen(fields={"metadata.name": "there"})
    assert ["there"] == chosen(labels={"a": "b"})
    assert ["there"] == chosen(fields={"spec.nodeName": "n2"}, labels={"a": "b"})
    assert [] == chosen(fields={"spec.nodeName": "n1"}, labels={"a": "b"})


def test_a_list_has_whole_objects(place: Place):
    """Kind and version, too, which the server leaves out."""
    place.store.create(Kind.POD, pod(place, "p"))

    found, version = place.store.list(Kind.POD, place.namespace)

    assert [("v1", "Pod", "p")] == [(e["apiVersion"], e["kind"], e["metadata"]["name"]) for e in found]
    assert int(version) >= int(found[0]["metadata"]["resourceVersion"])


def test_a_list_of_every_namespace_has_ours(place: Place):
    """An informer asks for nothing less."""
    place.store.create(NAD, network(place, "n"))

    assert (place.namespace, "n") in [
        (each["metadata"]["namespace"], each["metadata"]["name"]) for each in place.store.list(NAD)[0]
    ]


@pytest.mark.parametrize("is_everywhere", [False, True], ids=["namespace", "everywhere"])
def test_a_watch_tells_what_happened_since_the_list(place: Place, is_everywhere: bool):
    """In its order, and nothing from before."""
    place.store.create(NAD, network(place, "old"))
    _, version = place.store.list(NAD, None if is_everywhere else place.namespace)
    place.store.create(NAD, network(place, "n"))
    place.store.patch(NAD, place.namespace, "n", {"spec": {"config": '{"a": 1}'}})
    place.store.delete(NAD, place.namespace, "n")

    told = heard(place, NAD, version, 3, is_everywhere=is_everywhere)

    assert ["ADDED", "MODIFIED", "DELETED"] == [each.type for each in told]
    assert ["{}", '{"a": 1}', '{"a": 1}'] == [each.object["spec"]["config"] for each in told]
    versions = [int(each.object["metadata"]["resourceVersion"]) for each in told]
    assert sorted(set(versions)) == versions


def test_a_watch_from_any_version_begins_with_what_is_there(place: Place):
    """Version 0 is never too old, whatever was forgotten."""
    for name in "ab":
        place.store.create(NAD, network(place, name))
    place.forget()

    watch = place.store.watch(NAD, place.namespace, "0", WATCH_S)
    changes = (each for each in watch if each.type != "BOOKMARK")
    before = sorted(each.object["metadata"]["name"] for each in itertools.islice(changes, 2))
    place.store.patch(NAD, place.namespace, "a", {"spec": {"config": '{"a": 1}'}})
    after = next(changes)

    assert (["a", "b"], "MODIFIED", "a") == (before, after.type, after.object["metadata"]["name"])


def test_a_watch_goes_on_after_the_last_that_was_told(place: Place):
    """What came in between two watches is not lost, and not told twice."""
    _, version = place.store.list(NAD, place.namespace)
    for name in "abc":
        place.store.create(NAD, network(place, name))
    (first,) = heard(place, NAD, version, 1)

    told = heard(place, NAD, first.object["metadata"]["resourceVersion"], 2)

    assert ["b", "c"] == names(each.object for each in told)


def test_what_leaves_a_selection_is_told_as_deleted(place: Place):
    """As the interface of a store says."""
    _, version = place.store.list(NAD, place.namespace)
    place.store.create(NAD, network(place, "n", labels={"a": "b"}))
    place.store.patch(NAD, place.namespace, "n", {"metadata": {"labels": {"a": "c"}}})
    place.store.patch(NAD, place.namespace, "n", {"metadata": {"labels": {"a": "b"}}})

    told = heard(place, NAD, version, 3, Selector(labels={"a": "b"}))

    assert ["ADDED", "DELETED", "ADDED"] == [each.type for each in told]


@pytest.mark.slow
def test_a_watch_ends_with_its_time_and_a_bookmark_tells_how_far_it_came(place: Place):
    """A watch of a quiet namespace would have to begin with a list otherwise."""
    _, version = place.store.list(NAD, place.namespace)

    told = list(place.store.watch(NAD, place.namespace, version, 3))

    assert {"BOOKMARK"} >= {each.type for each in told}
    assert all(int(each.object["metadata"]["resourceVersion"]) >= int(version) for each in told)


def test_changes_that_are_forgotten_are_told_so(place: Place):
    """410: list again."""
    place.store.create(NAD, network(place, "n"))
    version = place.forget()

    with pytest.raises(Expired):
        heard(place, NAD, version, 1)


def test_a_replacement_is_whole_and_needs_the_newest_version(place: Place):
    """What somebody else wrote in between is not written over."""
    made = place.store.create(NAD, network(place, "n", labels={"a": "b"}))
    newer = {**network(place, "n", '{"a": 1}')}
    newer["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]

    replaced = place.store.replace(NAD, newer)

    assert ('{"a": 1}', False) == (replaced["spec"]["config"], "labels" in replaced["metadata"])
    assert made["metadata"]["uid"] == replaced["metadata"]["uid"]
    with pytest.raises(Conflict, match="modified"):
        place.store.replace(NAD, newer)


def test_a_custom_object_is_not_replaced_without_a_version(place: Place):
    """Its update cannot be blind."""
    place.store.create(NAD, network(place, "n"))

    with pytest.raises(Invalid, match="resourceVersion"):
        place.store.replace(NAD, network(place, "n"))


def test_a_patch_merges_and_null_takes_away(place: Place):
    """RFC 7396."""
    place.store.create(NAD, network(place, "n", annotations={"a": "1", "b": "2"}))

    wanted = {"metadata": {"annotations": {"a": None, "c": "3"}}}
    patched = place.store.patch(NAD, place.namespace, "n", wanted)

    assert {"b": "2", "c": "3"} == patched["metadata"]["annotations"]
    assert "{}" == patched["spec"]["config"]


def test_a_patch_that_changes_nothing_writes_nothing(place: Place):
    """Nobody who watches is woken."""
    made = place.store.create(NAD, network(place, "n", annotations={"a": "1"}))

    patched = place.store.patch(NAD, place.namespace, "n", {"metadata": {"annotations": {"a": "1"}}})

    assert made["metadata"]["resourceVersion"] == patched["metadata"]["resourceVersion"]


def test_a_status_patch_writes_annotations_and_no_spec(place: Place):
    """What our role allows is less than it seems."""
    place.store.create(Kind.POD, pod(place, "p", node="mine", labels={"a": "b"}))
    wanted: Object = {
        "metadata": {"annotations": {"status": "x"}},
        "spec": {"nodeName": "elsewhere"},
        "status": {"message": "y"},
    }

    patched = place.store.patch(Kind.POD, place.namespace, "p", wanted, subresource="status")

    assert {"status": "x"} == patched["metadata"]["annotations"]
    assert ("mine", "y") == (patched["spec"].get("nodeName"), patched["status"]["message"])
    assert {"a": "b"} == patched["metadata"]["labels"]


def test_a_patch_of_the_whole_writes_no_status(place: Place):
    """It has a path of its own."""
    place.store.create(Kind.POD, pod(place, "p"))
    wanted = {"metadata": {"labels": {"a": "b"}}, "status": {"message": "y"}}

    patched = place.store.patch(Kind.POD, place.namespace, "p", wanted)

    assert ({"a": "b"}, None) == (patched["metadata"]["labels"], patched["status"].get("message"))


def test_a_moved_version_does_not_lose_a_status(place: Place):
    """The kubelet writes the pod all the time; a merge patch names no version."""
    made = place.store.create(Kind.POD, pod(place, "p"))
    for number in range(5):
        place.store.patch(Kind.POD, place.namespace, "p", {"metadata": {"labels": {"n": str(number)}}})

    wanted = annotated("up", uid=made["metadata"]["uid"])
    place.store.patch(Kind.POD, place.namespace, "p", wanted, subresource="status")

    metadata = place.store.get(Kind.POD, place.namespace, "p")["metadata"]
    assert ({STATUS: "up"}, {"n": "4"}) == (metadata["annotations"], metadata["labels"])


def test_a_patch_for_a_version_of_before_is_refused(place: Place):
    """Even where it is the very last one before."""
    made = place.store.create(Kind.POD, pod(place, "p"))
    place.store.patch(Kind.POD, place.namespace, "p", annotated("up"))

    patch = annotated("down", resourceVersion=made["metadata"]["resourceVersion"])
    with pytest.raises(Conflict, match="object has been modified"):
        place.store.patch(Kind.POD, place.namespace, "p", patch, subresource="status")

    assert {STATUS: "up"} == place.store.get(Kind.POD, place.namespace, "p")["metadata"]["annotations"]


@pytest.mark.parametrize("subresource", ["", "status"])
@pytest.mark.parametrize(
    ("condition", "refusal"), [({"resourceVersion": "1"}, Conflict), ({"uid": ANOTHER}, Replaced)]
)
def test_a_patch_for_another_one_is_refused(
    place: Place, condition: dict[str, str], refusal: type[Exception], subresource: str
):
    """A pod of the same name that came after ours has other networks."""
    made = place.store.create(Kind.POD, pod(place, "p"))
    wanted = {"metadata": {**condition, "annotations": {"a": "1"}}}

    with pytest.raises(refusal):
        place.store.patch(Kind.POD, place.namespace, "p", wanted, subresource=subresource)

    known = place.store.get(Kind.POD, place.namespace, "p")["metadata"]
    assert (made["metadata"]["resourceVersion"], None) == (known["resourceVersion"], known.get("annotations"))


@pytest.mark.parametrize("key", ["resourceVersion", "uid"])
def test_a_patch_for_the_one_that_is_there_is_done(place: Place, key: str):
    """The condition is no other part of the patch."""
    made = place.store.create(Kind.POD, pod(place, "p"))
    wanted = {"metadata": {key: made["metadata"][key], "annotations": {"a": "1"}}}

    patched = place.store.patch(Kind.POD, place.namespace, "p", wanted, subresource="status")

    assert {"a": "1"} == patched["metadata"]["annotations"]


def test_a_pod_on_a_node_is_marked_until_it_has_stopped(place: Place):
    """Its DEL is still to come, and needs it; one that is on no node goes at once."""
    place.store.create(Kind.POD, pod(place, "here", node="n1"))
    place.store.create(Kind.POD, pod(place, "nowhere"))

    place.store.delete(Kind.POD, place.namespace, "here")
    place.store.delete(Kind.POD, place.namespace, "nowhere")

    assert place.store.get(Kind.POD, place.namespace, "here")["metadata"]["deletionTimestamp"]
    with pytest.raises(NotFound):
        place.store.get(Kind.POD, place.namespace, "nowhere")


def test_who_has_no_role_is_told_which(place: Place):
    """The rule that is missing, as it is written in a role."""
    with pytest.raises(Forbidden, match=r"apiGroups \[''\], resources \['events'\], verbs \['list'\]"):
        place.daemon.list(Kind.EVENT)


PODS = "/api/v1/namespaces/{namespace}/pods"
NADS = f"/apis/k8s.cni.cncf.io/v1/namespaces/{{namespace}}/{NAD.value.plural}"
MERGE, JSON = "application/merge-patch+json", "application/json"
UNVERSIONED: Object = {"metadata": {"name": "n"}, "spec": {"config": "{}"}}
A_POD = {"name": "n", "kind": "pods"}
A_NAD = {"name": "n", "group": "k8s.cni.cncf.io", "kind": NAD.value.plural}
IMMUTABLE = 'metadata.uid: Invalid value: "' + ANOTHER + '": field is immutable'
REFUSALS: dict[str, tuple[tuple[str, str, Any, str], tuple[int, str, Any, list[str]], str]] = {
    "no pod": (("GET", f"{PODS}/x", None, JSON), (404, "NotFound", {**A_POD, "name": "x"}, []), "not found"),
    "no network": (
        ("GET", f"{NADS}/x", None, JSON),
        (404, "NotFound", {**A_NAD, "name": "x"}, []),
        f'{NAD.value.plural}.k8s.cni.cncf.io "x" not found',
    ),
    "a pod of another version": (
        ("PATCH", f"{PODS}/n", {"metadata": {"resourceVersion": "1"}}, MERGE),
        (409, "Conflict", A_POD, []),
        'Operation cannot be fulfilled on pods "n": the object has been modified',
    ),
    "a pod of another UID": (
        ("PATCH", f"{PODS}/n", {"metadata": {"uid": ANOTHER}}, MERGE),
        (422, "Invalid", {**A_POD, "kind": "Pod"}, ["metadata.uid"]),
        f'Pod "n" is invalid: {IMMUTABLE}',
    ),
    "a pod's status of another UID": (
        ("PATCH", f"{PODS}/n/status", {"metadata": {"uid": ANOTHER}}, MERGE),
        (422, "Invalid", {**A_POD, "kind": "Pod"}, ["metadata.uid"]),
        f'Pod "n" is invalid: {IMMUTABLE}',
    ),
    "a network of another UID": (
        ("PATCH", f"{NADS}/n", {"metadata": {"uid": ANOTHER}}, MERGE),
        (422, "Invalid", {**A_NAD, "kind": "NetworkAttachmentDefinition"}, ["metadata.uid"]),
        f'NetworkAttachmentDefinition.k8s.cni.cncf.io "n" is invalid: {IMMUTABLE}',
    ),
    "a network replaced without a version": (
        ("PUT", f"{NADS}/n", UNVERSIONED, JSON),
        (422, "Invalid", A_NAD, ["metadata.resourceVersion"]),
        "metadata.resourceVersion: Invalid value: 0: must be specified for an update",
    ),
    "a name that is there": (
        ("POST", NADS, UNVERSIONED, JSON),
        (409, "AlreadyExists", A_NAD, []),
        '"n" already exists',
    ),
    "a name that is none": (
        ("POST", NADS, {**UNVERSIONED, "metadata": {"name": "n_"}}, JSON),
        (422, "Invalid", {**A_NAD, "name": "n_", "kind": "NetworkAttachmentDefinition"}, ["metadata.name"]),
        'is invalid: metadata.name: Invalid value: "n_": a lowercase RFC 1123 subdomain',
    ),
    "an unknown kind of patch": (
        ("PATCH", f"{PODS}/n", {"metadata": {}}, "text/plain"),
        (415, "UnsupportedMediaType", {}, []),
        "",
    ),
}
"""A request; code, reason, details and the fields in their causes; and a part of the message."""


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_says_as_much(place: Place, name: str):
    """What the store reads of a refusal, and what it hands on to people."""
    (method, path, body, content_type), expected, message = REFUSALS[name]
    place.store.create(Kind.POD, pod(place, "n"))
    place.store.create(NAD, network(place, "n"))
    if method in ("POST", "PUT"):
        body = {"apiVersion": NAD.value.api_version, "kind": NAD.value.kind, **body}

    code, status = place.ask(method, path.format(namespace=place.namespace), body, content_type)

    details = {**status.get("details", {})}
    fields = sorted({each["field"] for each in details.pop("causes", ())})
    assert expected == (code, status["reason"], details, fields)
    assert message in status["message"]
    assert ("Status", "Failure", code) == (status["kind"], status["status"], status["code"])
