"""Versions as numbers, and which one is spoken."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_cni.cni import version as versions
from meta_cni.cni.errors import DecodeFailure, IncompatibleVersion

parts = st.integers(0, 10**9 - 1)


@given(parts, parts, parts)
def test_a_version_is_read_as_numbers(major: int, minor: int, patch: int):
    """As texts, 0.10.0 would be older than 0.9.0."""
    assert (major, minor, patch) == versions.parse(f"{major}.{minor}.{patch}")


MALFORMED = [
    "",
    "1",
    "1.0",
    "1.0.0.0",
    "v1.0.0",
    "1.0.x",
    "1.0.0-rc1",
    "1..0",
    " 1.0.0",
    "1.0.0\n",
    "-1.0.0",
    "+1.0.0",
]
MALFORMED += ["1.0.٠", "1.0.²", "1,0,0", "latest", f"{'1' * 5000}.0.0"]


@pytest.mark.parametrize("text", MALFORMED, ids=[ascii(text)[:20] for text in MALFORMED])
def test_anything_but_three_numbers_is_refused(text: str):
    """Among them digits of other scripts, and more of them than Python turns into a number."""
    with pytest.raises(DecodeFailure, match=r"expected MAJOR\.MINOR\.PATCH, for example 1\.1\.0"):
        versions.parse(text)


@given(st.text(max_size=12))
def test_any_text_is_a_version_or_a_cni_error(text: str):
    """It comes from users and plugins."""
    with suppress(IncompatibleVersion, DecodeFailure):
        assert versions.require_supported(text) in versions.SUPPORTED


@pytest.mark.parametrize(
    ("version", "minimum", "expected"),
    [
        ("0.4.0", "0.4.0", True),
        ("1.0.0", "0.4.0", True),
        ("0.3.1", "0.4.0", False),
        ("0.10.0", "0.9.9", True),
    ],
)
def test_versions_compare_as_numbers(version: str, minimum: str, expected: bool):
    """CHECK needs 0.4.0, GC and STATUS 1.1.0."""
    assert expected == versions.at_least(version, minimum)


@pytest.mark.parametrize("version", versions.SUPPORTED)
def test_every_version_of_the_specification_is_supported(version: str):
    """A cluster may still have one with the oldest."""
    assert version == versions.require_supported(version)


def test_an_unknown_version_is_answered_with_the_known_ones():
    """The reference skeleton's words, so that people find them; what was of that version is named."""
    with pytest.raises(IncompatibleVersion, match=r"^incompatible CNI versions$") as caught:
        versions.require_supported("1.2.0", what="result")

    known = "0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"
    assert f'result is "1.2.0", meta-cni supports {known}' == caught.value.details
    assert 1 == caught.value.code


@pytest.mark.parametrize(
    ("several", "version", "expected"),
    [
        ([], "0.4.0", "0.4.0"),
        (["0.4.0", "1.0.0"], "", "1.0.0"),
        (["1.0.0", "0.4.0"], "", "1.0.0"),
        (["0.3.1"], "0.4.0", "0.4.0"),
        (["1.1.0", "2.0.0"], "0.4.0", "1.1.0"),
        (["2.0.0", "10.0.0"], "0.4.0", "0.4.0"),
        (["0.4.0", "0.5.0"], "", "0.4.0"),
        (["2.0.0"], "3.0.0", "3.0.0"),
        (["2.0.0", "3.0.0"], "", "2.0.0"),
        ([], "", "0.1.0"),
    ],
)
def test_the_newest_version_both_speak_is_chosen(several: list[str], version: str, expected: str):
    """When there is none, what the configuration asked for is returned, to be named in the error."""
    assert expected == versions.choose(several, version)


@pytest.mark.parametrize("several", [["1.0.0", "newest"], [""]])
def test_one_malformed_version_among_several_is_an_error(several: list[str]):
    """As for the reference library; it may be the one that was meant."""
    with pytest.raises(DecodeFailure):
        versions.choose(several, "1.0.0")


@given(st.lists(st.sampled_from([*versions.SUPPORTED, "0.0.9", "0.9.0", "1.2.0", "9.0.0"]), min_size=1))
def test_no_version_that_we_do_not_speak_is_chosen_where_another_can_be(several: list[str]):
    """The order they are listed in does not matter."""
    spoken = [each for each in versions.SUPPORTED if each in several]

    assert (spoken[-1] if spoken else several[0]) == versions.choose(several, "")
