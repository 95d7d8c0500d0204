"""Who has which virtual function, written down for this program and for the reference plugin."""

import errno
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from meta_cni.cni.errors import DamagedEntry, IOFailure, TryAgainLater
from meta_cni.linux import vf_claims
from meta_cni.linux.vf import NO_MAC, Rate, Settings, Vlan
from meta_cni.linux.vf_claims import Before, Claim, Claims

VF = "0000:03:02.0"
CLAIM = Claim(
    container_id="c0",
    interface="net-1",
    address=VF,
    parent="ens1",
    number=2,
    wanted=Settings(vlan=Vlan(100), is_trusted=True),
    before=Settings(Vlan(5, 1, "802.1ad"), NO_MAC, Rate(0, 10), True, False, "disable"),
    link=Before("ens1v0", "02:00:5e:00:53:01", 1500, is_up=True),
    network="media",
    netns="/run/netns/a",
    netns_identity="4:5",
    config={"name": "media", "type": "sriov", "vlan": 100, "trust": "on"},
)


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(tmp_path / "sriov")


def files(claims: Claims) -> list[str]:
    """All of them, locks aside, which stay."""
    found = [each for each in claims.directory.rglob("*") if each.is_file() and each.suffix != ".lock"]
    return sorted(str(each.relative_to(claims.directory)) for each in found)


def test_a_claim_is_read_as_it_was_written(claims: Claims):
    """Another process undoes what this one did."""
    claims.write(CLAIM)

    assert CLAIM == claims.find("c0", "net-1")
    assert [CLAIM] == claims.of_device(VF)
    assert [] == claims.of_device("0000:03:02.1")
    assert "/run/netns/a" == claims.holder(VF)
    assert claims.find("c0", "net1") is None


def test_a_claim_of_a_userspace_vf_is_known_as_one(claims: Claims):
    """The reference forgets it, and looks for a link when it is to be given back."""
    claims.write(replace(CLAIM, link=None))

    found = claims.find("c0", "net-1")

    assert found is not None
    assert found.link is None


def test_nothing_is_left_of_a_claim(claims: Claims):
    """Nor of one that is not there."""
    claims.write(CLAIM)
    claims.remove(CLAIM)
    claims.remove(CLAIM)

    assert [] == files(claims)
    assert "" == claims.holder(VF)


def test_what_a_kill_left_is_removed(claims: Claims):
    """Between any two of the writes' steps."""
    claims.write(CLAIM)
    for name in (".c0-net-1.new", f"pci/.{VF}.new"):
        (claims.directory / name).write_text("{")

    assert [CLAIM] == claims.all()
    claims.remove(CLAIM)
    assert [] == files(claims)

    (claims.directory / ".c0-net-1.new").write_text("{")
    claims.clear("c0", "net-1")
    assert [] == files(claims)


def test_a_vf_that_was_given_to_another_stays_his(claims: Claims):
    """The DEL of a pod that vanished comes late; what it removes is its own claim alone."""
    claims.write(CLAIM)
    assert not claims.is_anothers(CLAIM)
    new = replace(CLAIM, container_id="c1", netns="/run/netns/b")
    claims.write(new)

    assert claims.is_anothers(CLAIM)
    claims.remove(CLAIM)
    assert [new] == claims.of_device(VF)
    assert "/run/netns/b" == claims.holder(VF)


def test_claims_are_the_user_s_alone(claims: Claims):
    """As those of the reference."""
    claims.write(CLAIM)

    assert 0o600 == stat.S_IMODE((claims.directory / "c0-net-1").stat().st_mode)
    assert 0o700 == stat.S_IMODE(claims.directory.stat().st_mode)


def test_the_reference_plugin_finds_what_it_needs(claims: Claims):
    """Its own keys, by the names of its NetConf (pkg/types): a node may go back to it."""
    claims.write(CLAIM)

    told = json.loads((claims.directory / "c0-net-1").read_text())

    original = {
        "HostIFName": "ens1v0",
        "SpoofChk": True,
        "Trust": False,
        "AdminMAC": NO_MAC,
        "EffectiveMAC": "02:00:5e:00:53:01",
        "Vlan": 5,
        "VlanQoS": 1,
        "VlanProto": 0x88A8,
        "MinTxRate": 0,
        "MaxTxRate": 10,
        "LinkState": 2,
        "MTU": 1500,
    }
    assert original == told["OrigVfState"]
    assert ("ens1", 2, VF, 100, "on") == tuple(
        told[key] for key in ("Master", "VFID", "deviceID", "vlan", "trust")
    )


REFERENCE = """{"cniVersion": "1.0.0", "name": "media", "type": "sriov", "ipam": {}, "dns": {},
"OrigVfState": {"HostIFName": "ens1v0", "SpoofChk": true, "Trust": false, "AdminMAC": "00:00:00:00:00:00",
"EffectiveMAC": "02:00:5e:00:53:01", "Vlan": 0, "VlanQoS": 0, "VlanProto": 33024, "MinTxRate": 0,
"MaxTxRate": 0, "LinkState": 0, "MTU": 1500}, "Master": "ens1", "MAC": "02:00:5e:00:53:09", "MTU": 1500,
"vlan": 100, "vlanQoS": 0, "vlanProto": "802.1q", "deviceID": "0000:03:02.0", "VFID": 2, "min_tx_rate": null,
"max_tx_rate": null, "trust": "on", "runtimeConfig": {}}"""


def test_a_claim_of_the_reference_plugin_is_understood(claims: Claims):
    """What it has set is what is to be put back; the namespace is in its other file."""
    (claims.directory / "pci").mkdir(parents=True)
    (claims.directory / "c0-net-1").write_text(REFERENCE)
    (claims.directory / "pci" / VF).write_text("/run/netns/a")

    found = claims.find("c0", "net-1")

    assert found == Claim(
        container_id="c0",
        interface="net-1",
        address=VF,
        parent="ens1",
        number=2,
        wanted=Settings(vlan=Vlan(0), mac="02:00:5e:00:53:09", is_trusted=False),
        before=Settings(Vlan(0), NO_MAC, Rate(), True, False, "auto"),
        link=Before("ens1v0", "02:00:5e:00:53:01", 1500, is_known=False),
        netns="/run/netns/a",
    )
    assert not found.is_ours


DAMAGED = ["", "{", "[]", "{}", '{"OrigVfState": {}}', '{"meta-cni": {}}', '{"meta-cni": {"link": null}}']


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_claim_is_told_and_can_be_set_aside(claims: Claims, text: str):
    """Others are read all the same."""
    claims.write(replace(CLAIM, container_id="c1"))
    (claims.directory / "c0-net-1").write_text(text)

    with pytest.raises(DamagedEntry, match="c0-net-1"):
        claims.find("c0", "net-1")
    assert ["c1"] == [each.container_id for each in claims.all()]

    aside = claims.set_aside("c0", "net-1")
    assert text == aside.read_text()
    assert claims.find("c0", "net-1") is None


def test_a_vf_s_lock_is_the_reference_plugin_s(claims: Claims):
    """flock(2) on pci/vf_lock/<address>.lock; its file stays, for others may be waiting at it."""
    path = claims.directory / "pci" / "vf_lock" / f"{VF}.lock"
    script = (
        f"import fcntl, os; d = os.open({str(path)!r}, os.O_RDONLY); "
        "fcntl.flock(d, fcntl.LOCK_EX); print('locked', flush=True); input()"
    )
    with claims.locked(VF, 1.0):
        pass
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert "locked\n" == other.stdout.readline()
        with (
            pytest.raises(TryAgainLater, match=f"lock VF {VF}: another call for it is still running"),
            claims.locked(VF, 0.05),
        ):
            pass
        with claims.locked("0000:03:02.1", 0.05):
            pass
        other.communicate("\n")
    with claims.locked(VF, 1.0):
        assert path.exists()


@pytest.mark.parametrize("failing", [1, 2])
def test_a_full_disk_leaves_no_half_of_a_claim(claims: Claims, mocker, failing: int):
    """The first file may be there without the second one: nothing has been changed then."""
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")

    mocker.patch.object(vf_claims.os, "fsync", fsync)

    with pytest.raises(IOFailure, match="No space left on device"):
        claims.write(CLAIM)

    assert [[], ["c0-net-1"]][failing - 1] == files(claims)
    assert "" == claims.holder(VF)


def test_a_claim_is_synced_before_the_vf_is_held(claims: Claims, mocker):
    """A power cut must not leave a VF that is held, and nothing of what it was."""
    diary: list[str] = []
    real_replace = os.replace

    def synced(descriptor: int) -> None:
        diary.append("sync")

    mocker.patch.object(vf_claims.os, "fsync", synced)

    def renamed(source: Path, target: Path) -> None:
        diary.append(target.name)
        real_replace(source, target)

    mocker.patch.object(vf_claims.os, "replace", renamed)

    claims.write(CLAIM)

    assert ["sync", "c0-net-1", "sync", VF] == diary


def test_a_directory_that_cannot_be_read_is_told(tmp_path: Path):
    """Not taken for one without claims."""
    (tmp_path / "file").write_text("")

    with pytest.raises(IOFailure, match=r"list .*file: Not a directory"):
        Claims(tmp_path / "file").all()
    with pytest.raises(IOFailure, match="make directory"):
        Claims(tmp_path / "file").write(CLAIM)
