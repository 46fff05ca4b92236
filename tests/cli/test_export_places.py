"""Who has to go when more wait than there are places for."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtmeter.cli.export.places import GRACE, FullError, Places, last, network, slow


class Client:
    def __init__(self, network: str = "here", waiting: float = 0.0, *, gone: bool = False) -> None:
        self.network = network
        self.since = time.monotonic() - waiting
        self._gone = gone
        self.hung_up = False

    def gone(self) -> bool:
        return self._gone

    def hang_up(self) -> None:
        self.hung_up = True


def clients(*, gone: bool) -> st.SearchStrategy[list[Client]]:
    each = st.builds(
        Client,
        st.sampled_from(["here", "there", "elsewhere"]),
        st.floats(0, 3 * GRACE),
        gone=st.booleans() if gone else st.just(False),
    )
    return st.lists(each, min_size=1, max_size=20)


@given(clients(gone=False))
def test_who_is_slow_is_of_the_largest_crowd_and_has_had_his_time(taken: list[Client]) -> None:
    before = time.monotonic()
    goes = slow(taken)
    sizes = Counter(each.network for each in taken)
    assert sizes[goes.network] == max(sizes.values())
    crowd = [each for each in taken if sizes[each.network] == sizes[goes.network]]
    if any(before - each.since > GRACE for each in crowd):
        assert time.monotonic() - goes.since > GRACE


def test_among_those_who_have_had_their_time_it_is_by_chance_and_so_among_the_others() -> None:
    for waiting in (0.0, 2 * GRACE):
        taken = [Client(waiting=waiting) for _ in range(4)]
        assert {slow(taken) for _ in range(200)} == {*taken}


@given(clients(gone=True))
def test_of_those_who_wait_for_us_the_gone_go_first_and_then_the_last(taken: list[Client]) -> None:
    goes = last(taken)
    if any(each.gone() for each in taken):
        assert goes.gone()
    else:
        sizes = Counter(each.network for each in taken)
        assert sizes[goes.network] == max(sizes.values())
        assert goes is [each for each in taken if sizes[each.network] == sizes[goes.network]][-1]


def test_one_network_cannot_keep_out_another() -> None:
    places: Places[Client] = Places(3, last)
    crowd = [Client("crowd") for _ in range(3)]
    with ExitStack() as stack:
        for client in crowd:
            stack.enter_context(places.held(client))
        with pytest.raises(FullError), places.held(Client("crowd")):
            pass
        with places.held(Client("other")):
            assert [client.hung_up for client in crowd] == [False, False, True]
            assert len(places.all()) == 3
        with places.held(Client("crowd")):
            assert len(places.all()) == 3, "the place was given back"
    assert places.all() == ()


@pytest.mark.parametrize(
    ("address", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_addresses_that_one_client_can_have_are_one_network(
    address: str, other: str, same: bool
) -> None:
    assert (network(address) == network(other)) == same
