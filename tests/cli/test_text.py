"""Text from outside, as it is shown and sorted."""

from __future__ import annotations

import random

import pytest

from virtmeter.cli.text import counted, natural, printable, shown_uri


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web-1 ünï-☃", "web-1 ünï-☃"),
        ("a\nb\x1b[2J\x9b\0", r"a\nb\x1b[2J\x9b\x00"),
        ("\u202e\u200b\ufeff\u2028\U000e0001", r"\u202e\u200b\ufeff\u2028\U000e0001"),
        ("\udcff", r"\udcff"),
        ("q+tcp://u:secret@host/system", "q+tcp://u:***@host/system"),
        ("q+tcp://us'er:x's3cret@host/system", "q+tcp://us'er:***@host/system"),
        ("q+tcp://me@corp:s3cret@host/system", "q+tcp://me@corp:***@host/system"),
        ("q+ssh://me@host:22/system", "q+ssh://me@host:22/system"),
        ('"q://u:a@b@c" q://u:p q@z', '"q://u:***@c" q://u:p q@z'),
        # Another host may have sent it: each of these is to be gone over once.
        (100_000 * "//:", 100_000 * "//:"),
        ("@" + 100_000 * "/", "@" + 100_000 * "/"),
        (100_000 * "//:" + "@", "//:***@"),
    ],
    ids=lambda text: text[:30],
)
def test_what_could_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(("count", "told"), [(0, "0 targets"), (1, "1 target"), (2, "2 targets")])
def test_one_is_no_plural(count: int, told: str) -> None:
    assert counted(count, "target") == told


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ('q+tcp://u:s3 cr"et@host/system', "q+tcp://u:***@host/system"),
        ("q+tcp://u%3As3cret@host/system", "q+tcp://u%3A***@host/system"),
        ("u:s//3cret@host", "u:***@host"),
        ("q+tcp:/u:s3cret@host", "q+tcp:***@host"),
        ("q+tcp://me@corp:s3@cret@host", "q+tcp://me@corp:***@host"),
        ("q+ssh://root@host:22/system", "q+ssh://root@host:22/system"),
        ("q+unix:///system?socket=/a:b@c\n", r"q+unix:///system?socket=/a:b@c\n"),
    ],
)
def test_a_uri_is_shown_without_its_password(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown


def test_numbers_in_names_are_sorted_as_numbers_however_long() -> None:
    long = "9" * 5000
    names = ["-", "a-2", "a-09", "a-10", "a-10-b", f"a-{long}", f"a-1{long}", "b-1", "9", "10"]
    mixed = random.Random(7).sample(names, len(names))
    assert sorted(mixed, key=natural) == names
    assert natural("A-007") == natural("a-7")
    assert natural("a-٣") > natural("a-3"), "other digits are letters"
