"""What is kept by names that others choose has an end."""

from meta_cni.recent import Recent


def test_what_was_not_used_for_longest_goes():
    """Putting and finding are uses; who must clear up after it is told."""
    gone: list[str] = []
    kept: Recent[str, int] = Recent(2, gone.append)

    for key, value in (("a", 1), ("b", 2)):
        kept.put(key, value)
    kept.find("a")
    kept.put("c", 3)
    kept.put("a", 4)
    kept.put("d", 5)

    assert [("a", 4), ("d", 5)] == kept.items()
    assert ["b", "c"] == gone


def test_what_is_not_kept_is_none():
    """Never put, forgotten, or taken out."""
    kept: Recent[str, int] = Recent(1)
    kept.put("a", 1)

    assert (None, 1, None) == (kept.find("b"), kept.pop("a"), kept.pop("a"))
    assert None is kept.find("a")
