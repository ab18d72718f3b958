"""Links of one mesh on a simulated network, in virtual time: found, kept to one, and lost on purpose."""

import pytest
import trio

from meshd.drivers.addresses import Known
from meshd.drivers.link import PathKind
from meshd.drivers.links import FAREWELL
from meshd.drivers.quic import open_endpoint
from meshd.errors import StoreError
from meshd.model.address import Address
from meshd.notices import LinkDown, LinkUp, Trouble
from meshd.protocol.peerbook import Kind
from meshd.wire.constants import CloseCode
from tests.drivers.links_kit import IDENTITY, PORT, Machine, mesh, until
from tests.drivers.pairs import engine

SOON = 5.0
"""What the issue allows after a wake or a change of address."""


def are_linked(*machines: Machine) -> bool:
    names = {each.name for each in machines}
    return all(each.linked == names - {each.name} for each in machines)


def remembers(machine: Machine, other: Machine, *addresses: Address) -> None:
    machine.store.known += [Known(each, Kind.REMEMBERED, other.node, 60.0) for each in addresses]


async def test_an_address_by_hand_leads_to_a_link_on_both_sides(autojump_clock) -> None:
    async with mesh() as home:
        ann, bob = home.machine("ann"), home.machine("bob")
        ann.knows(bob)
        home.start(ann, bob)
        assert await until(lambda: are_linked(ann, bob)) < 2
        near, far = ann.link(bob), bob.link(ann)
        assert (near.path, far.path) == (PathKind.BY_HAND, PathKind.ACCEPTED)
        assert near.dialled_here and not far.dialled_here
        assert [(each.name, each.path) for each in ann.told(LinkUp)] == [("bob", "by hand")]
        # Both remember where the other was: one UDP port is for everything.
        await until(lambda: ann.store.kept and bob.store.kept)
        assert ann.store.kept == [(bob.node, bob.address)]
        assert bob.store.kept == [(ann.node, ann.address)]


async def test_announcements_alone_are_enough(autojump_clock) -> None:
    async with mesh() as home:
        machines = [home.machine(name) for name in ("ann", "bob", "cid")]
        home.start(*machines)
        await until(lambda: all(each.links for each in machines))
        for one in machines:
            for other in machines:
                if one is not other:
                    one.sees(other)
        await until(lambda: are_linked(*machines), within=5)


@pytest.mark.parametrize("seed", range(12))
async def test_two_that_dial_each_other_at_once_keep_one_link_and_the_same(autojump_clock, seed) -> None:
    async with mesh(seed, loss=0.1 if seed % 3 else 0.0, jitter=0.02, duplicate=0.05) as home:
        low, high = home.machine("low"), home.machine("high")
        low.knows(high), high.knows(low)
        home.start(*([low, high] if seed % 2 else [high, low]))
        await until(lambda: are_linked(low, high))
        await trio.sleep(15)
        assert are_linked(low, high)
        assert low.link(high).dialled_here != high.link(low).dialled_here
        assert (len(low.links._open), len(high.links._open)) == (1, 1)
        assert not low.told(LinkDown) and not high.told(LinkDown)
        assert not low.told(Trouble) and not high.told(Trouble)


async def test_of_sessions_that_cross_the_lower_key_is_the_client(autojump_clock) -> None:
    async with mesh(delay=0.05) as home:
        low, high = home.machine("low"), home.machine("high")
        home.start(low, high)
        await until(lambda: low.links and high.links)
        # At one moment, with long ways: both sessions are confirmed before either end can know of the other.
        for one, other in ((low, high), (high, low)):
            one.links._dialer._chance = lambda: 0.0
            one.links.add_by_hand(other.address)
        await until(lambda: len(low.served) + len(high.served) >= 2)
        await trio.sleep(8)
        assert low.link(high).dialled_here and not high.link(low).dialled_here
        assert len(low.serving) == len(high.serving) == 1


@pytest.mark.parametrize("restarted", ["low", "high"])
async def test_who_was_killed_and_is_back_at_once_is_linked_soon(autojump_clock, restarted) -> None:
    """Its old session looks alive to the other side, which has no reason to dial, and the rule may prefer that one."""
    async with mesh() as home:
        low, high = home.machine("low"), home.machine("high")
        back, stays = (low, high) if restarted == "low" else (high, low)
        stays.knows(back)  # who stays was the client
        home.start(low, high)
        await until(lambda: are_linked(low, high))
        await home.kill(back)
        back.store.known = [Known(stays.address, Kind.REMEMBERED, stays.node, 1.0)]
        home.start(back)
        await until(lambda: are_linked(low, high), within=1)
        # By then it has found out which of the two is alive.
        await trio.sleep(2)
        assert are_linked(low, high)
        assert await stays.link(back).connection.probe(1.0) is not None
        await trio.sleep(5)
        assert len(stays.links._open) == 1


async def test_an_address_that_belongs_to_somebody_else_by_now(autojump_clock) -> None:
    async with mesh() as home:
        ann, bob, cid = home.machine("ann"), home.machine("bob"), home.machine("cid")
        remembers(ann, bob, cid.address)
        home.start(ann, bob, cid)
        # What ann takes for bob is cid, and that is a link as well.
        await until(lambda: ann.linked == {"cid"})
        dialled = len(ann.dials)
        await trio.sleep(600)
        # It is known for cid's now, and cid is linked: nobody is looked for there.
        assert len(ann.dials) == dialled
        ann.links.learn(bob.node, [bob.address])
        await until(lambda: ann.linked == {"bob", "cid"}, within=1)


async def test_of_several_addresses_one_that_works_is_found_soon(autojump_clock) -> None:
    async with mesh() as home:
        ann, bob = home.machine("ann"), home.machine("bob")
        nowhere = home.network.host("nowhere")  # nothing listens there
        remembers(ann, bob, Address(nowhere.address, PORT), Address("10.99.0.1", PORT), bob.address)
        home.start(ann, bob)
        assert await until(lambda: are_linked(ann, bob)) < 2
        assert ann.link(bob).path is PathKind.REMEMBERED


async def test_who_answers_at_an_old_address_and_says_nothing_holds_nobody_up(autojump_clock) -> None:
    async with mesh() as home:
        ann, bob = home.machine("ann"), home.machine("bob")
        silent = home.network.host("silent")
        with silent:
            opened = open_endpoint(engine=engine("qh3"), identity=IDENTITY, port=PORT, accept=True)
            async with opened:
                remembers(ann, bob, Address(silent.address, PORT))
                ann.store.known.append(Known(bob.address, Kind.LEARNT, bob.node))
                home.start(ann, bob)
                assert await until(lambda: are_linked(ann, bob)) < 3


async def test_a_machine_that_finds_itself_does_not_look_there_again(autojump_clock) -> None:
    async with mesh() as home:
        ann = home.machine("ann")
        ann.knows(ann)
        home.start(ann)
        await trio.sleep(600)
        assert len(ann.dials) == 1 and not ann.linked
        # On another network the address may be somebody's.
        ann.links.network_changed()
        await trio.sleep(60)
        assert len(ann.dials) == 2


async def test_who_is_linked_is_not_dialled(autojump_clock) -> None:
    async with mesh() as home:
        ann, bob = home.machine("ann"), home.machine("bob")
        ann.knows(bob)
        home.start(ann, bob)
        await until(lambda: are_linked(ann, bob))
        dialled = len(ann.dials)
        ann.sees(bob)  # where it is known to be
        ann.links.add_by_hand(bob.address, bob.node)
        await trio.sleep(300)
        assert len(ann.dials) == dialled
        # Another address leads to a stranger as far as anybody knows; one look is enough.
        ann.sees(bob, Address(bob.host.addresses[1], PORT))
        await trio.sleep(300)
        assert len(ann.dials) == dialled + 1 and are_linked(ann, bob)
        assert len(bob.served) == 1


async def test_who_is_away_is_dialled_seldom_and_found_when_it_is_announced(autojump_clock) -> None:
    async with mesh() as home:
        ann, bob = home.machine("ann"), home.machine("bob")
        ann.knows(bob)
        home.start(ann)
        await trio.sleep(3600)
        assert 55 < len(ann.dials) < 140
        gaps = [later - earlier for (earlier, _), (later, _) in zip(ann.dials, ann.dials[1:], strict=False)]
        assert max(gaps) < 70 and len({round(gap, 3) for gap in gaps[8:]}) > 20  # no two alike
        home.start(bob)
        await trio.sleep(0.1)
        ann.sees(bob)
        assert await until(lambda: are_linked(ann, bob)) < 1


async def test_a_flood_of_announcements_does_not_keep_members_apart(autojump_clock) -> None:
    async with mesh() as home:
        ann, bob, cid = home.machine("ann"), home.machine("bob"), home.machine("cid")
        home.start(ann)
        await until(lambda: ann.links)
        nowhere = home.network.host("nowhere")
        for number in range(200):
            ghost = Machine(f"{number:x}", bob.keys, nowhere, ann.roster, home.network)
            ann.sees(ghost, Address(nowhere.address, 1000 + number))
        await trio.sleep(20)
        home.start(bob, cid)
        await trio.sleep(0.1)
        ann.links.learn(bob.node, [bob.address])
        await until(lambda: "bob" in ann.linked, within=1)
        # And one that is really there gets a place among those that never answered.
        ann.sees(cid)
        await until(lambda: "cid" in ann.linked, within=64 * 2 / 4 + 1)
        began = len(ann.dials)
        await trio.sleep(600)
        assert (len(ann.dials) - began) / 600 < 3  # a second


async def lose_link_on_one_side(home, one: Machine, other: Machine) -> None:
    """`other` gives the link up, and `one` does not hear of it."""
    home.network.cut(one.host, other.host)
    other.link(one).connection.close(0x7407, "silence")
    # As if it had long tried in vain, and did not try again just now.
    other.links._book = type(other.links._book)()
    await trio.sleep(5)  # less than it takes `one` to find out by itself, which a machine that sleeps does not
    home.network.heal(one.host, other.host)


@pytest.mark.parametrize("client", ["sleeper", "other"])
async def test_after_a_sleep_the_link_is_back_soon(autojump_clock, client) -> None:
    async with mesh() as home:
        sleeper, other = home.machine("sleeper"), home.machine("other")
        if client == "sleeper":
            sleeper.knows(other)
        else:
            other.knows(sleeper)
        home.start(sleeper, other)
        await until(lambda: are_linked(sleeper, other))
        await trio.sleep(100)
        await lose_link_on_one_side(home, sleeper, other)
        assert sleeper.linked == {"other"} and not other.linked
        dead = sleeper.link(other)
        sleeper.links.woke()
        took = await until(lambda: are_linked(sleeper, other) and sleeper.link(other) is not dead)
        assert took < 2 < SOON
        assert sleeper.link(other).dialled_here
        assert await sleeper.link(other).connection.probe(1.0) is not None


async def test_a_wake_that_cost_nothing_changes_nothing(autojump_clock) -> None:
    async with mesh(delay=0.04) as home:
        ann, bob = home.machine("ann"), home.machine("bob")
        ann.knows(bob)
        home.start(ann, bob)
        await until(lambda: are_linked(ann, bob))
        link, dialled = ann.link(bob), len(ann.dials)
        for _ in range(5):
            ann.links.woke(), bob.links.woke()
            await trio.sleep(20)
        assert ann.link(bob) is link and len(ann.dials) == dialled and not bob.dials


@pytest.mark.parametrize("client", ["mover", "other"])
async def test_after_a_change_of_address_the_link_is_back_soon(autojump_clock, client) -> None:
    async with mesh() as home:
        mover, other = home.machine("mover"), home.machine("other")
        if client == "mover":
            mover.knows(other)
        else:
            other.knows(mover)
        home.start(mover, other)
        await until(lambda: are_linked(mover, other))
        await trio.sleep(100)
        home.move(mover, "10.0.9.9")
        mover.links.network_changed()

        async def passes() -> bool:
            """Whether the other side's link, as it is now, reaches the one that moved."""
            return bool(other.linked) and await other.link(mover).connection.probe(0.5) is not None

        with trio.fail_after(SOON - 1):
            while not await passes():
                await trio.sleep(0.05)
        await trio.sleep(120)
        assert are_linked(mover, other) and await passes()


async def test_who_is_out_is_let_go_and_not_let_in_again(autojump_clock) -> None:
    async with mesh() as home:
        ann, bob = home.machine("ann"), home.machine("bob")
        ann.knows(bob), bob.knows(ann)
        home.start(ann, bob)
        await until(lambda: are_linked(ann, bob))
        await trio.sleep(20)
        link = ann.link(bob)
        ann.roster.out.add("bob")
        ann.links.recheck()
        assert not ann.linked and link.leaving.is_set() and link.connection.closed is None, "it may still read why"
        await until(lambda: not bob.linked, within=FAREWELL + 1)
        assert link.connection.closed.code == CloseCode.NOT_A_MEMBER
        assert [each.why for each in ann.told(LinkDown)] == ["it is no member any more, or is blocked"]
        await trio.sleep(300)
        assert not ann.linked and not bob.linked and len(ann.told(LinkUp)) == 1
        ann.roster.out.clear()
        ann.links.recheck()
        await until(lambda: are_linked(ann, bob), within=90)


async def test_who_is_blocked_is_closed_at_once_and_told_nothing(autojump_clock) -> None:
    async with mesh() as home:
        ann, bob = home.machine("ann"), home.machine("bob")
        ann.knows(bob), bob.knows(ann)
        home.start(ann, bob)
        await until(lambda: are_linked(ann, bob))
        link = ann.link(bob)
        ann.membership.blocked.add(bob.keys.identity.node)
        ann.links.recheck()
        assert link.connection.closed.code == CloseCode.NOT_A_MEMBER and not link.leaving.is_set()
        await until(lambda: not ann.linked and not bob.linked, within=1)


@pytest.mark.parametrize("becomes_known", [True, False])
@pytest.mark.parametrize("settled", [True, False], ids=["rosters exchanged", "never"])
async def test_a_newcomer_stays_if_the_roster_has_it(autojump_clock, becomes_known, settled) -> None:
    async with mesh() as home:
        bob, new = home.machine("bob"), home.machine("new")
        bob.membership.vouched = True
        bob.membership.roster = type(bob.roster)({"bob": bob.keys.identity})
        new.knows(bob)
        home.start(bob, new)
        await until(lambda: are_linked(bob, new))
        link = bob.link(new)
        assert link.introduced
        if becomes_known:
            bob.membership.roster.identities["new"] = new.keys.identity
        if settled:
            bob.links.settle(link)
        bob.membership.vouched = False
        await trio.sleep(60)
        assert are_linked(bob, new) is becomes_known
        assert not link.introduced
        assert becomes_known or link.connection.closed.code == CloseCode.NOT_A_MEMBER


async def test_two_holders_of_one_key_are_told_and_so_is_who_meets_them(autojump_clock) -> None:
    async with mesh() as home:
        bob, ann = home.machine("bob"), home.machine("ann")
        copy = Machine("ann", ann.keys, home.network.host("copy"), ann.roster, home.network)
        ann.knows(bob), copy.knows(bob)
        home.start(bob, ann, copy)
        await until(lambda: ann.told(Trouble) and copy.told(Trouble) and bob.told(Trouble), within=120)
        assert "ann" in bob.told(Trouble)[0].what
        for holder in (ann, copy):
            assert holder.told(Trouble)[0].what.startswith("Another machine uses the keys of this one")
            assert holder.told(Trouble)[0].level == "error"
        await trio.sleep(1800)
        # Said once, and fought over seldom.
        assert len(bob.told(Trouble)) == len(ann.told(Trouble)) == 1
        replaced = len(bob.served)
        await trio.sleep(600)
        assert len(bob.served) - replaced < 30


async def test_a_program_that_crashes_again_and_again_is_no_copy(autojump_clock) -> None:
    async with mesh() as home:
        bob, ann = home.machine("bob"), home.machine("ann")
        ann.knows(bob)
        home.start(bob, ann)
        for _ in range(8):
            await until(lambda: ann.linked and bob.linked)
            await home.kill(ann)
            home.start(ann)
            await trio.sleep(4)
        await until(lambda: are_linked(ann, bob))
        assert not bob.told(Trouble) and not ann.told(Trouble)


async def test_a_link_ends_when_it_is_served_no_more(autojump_clock) -> None:
    async with mesh() as home:
        ann, bob = home.machine("ann"), home.machine("bob")
        ann.knows(bob)

        async def serve(link) -> str:
            await trio.sleep(100)
            return "it broke the rules"

        home.start(ann, bob)
        await until(lambda: ann.links)
        ann.links.serve = serve
        await until(lambda: are_linked(ann, bob))
        await until(lambda: ann.told(LinkDown), within=120)
        assert ann.told(LinkDown)[0].why == "it broke the rules"
        await until(lambda: are_linked(ann, bob), within=2)


async def test_an_address_that_cannot_be_kept_is_no_reason_to_be_without_a_link(autojump_clock) -> None:
    async with mesh() as home:
        ann, bob = home.machine("ann"), home.machine("bob")
        ann.knows(bob)

        ann.store.failure = StoreError("The disk is full.")
        home.start(ann, bob)
        await until(lambda: are_linked(ann, bob))
        await trio.sleep(30)
        assert are_linked(ann, bob)


async def test_where_a_member_was_met_in_a_pairing_it_is_dialled(autojump_clock) -> None:
    async with mesh() as home:
        ann, bob = home.machine("ann"), home.machine("bob")
        home.start(ann, bob)
        await until(lambda: ann.links)
        ann.links.remember(bob.node, bob.address)
        await until(lambda: are_linked(ann, bob), within=2)
        assert ann.link(bob).path is PathKind.REMEMBERED


async def test_whoever_stops_says_so(autojump_clock) -> None:
    async with mesh() as home:
        ann, bob = home.machine("ann"), home.machine("bob")
        ann.knows(bob)
        home.start(ann, bob)
        await until(lambda: are_linked(ann, bob))
        ann.stop()
        await until(lambda: bob.told(LinkDown), within=1)
        assert bob.told(LinkDown)[0].why == "closed by the other side"


async def test_a_session_that_comes_when_nobody_runs_is_closed(autojump_clock) -> None:
    async with mesh() as home:
        ann, bob = home.machine("ann"), home.machine("bob")
        ann.knows(bob)
        home.start(ann, bob)
        await until(lambda: are_linked(ann, bob))
        link = ann.link(bob)
        idle = type(ann.links)(
            endpoint=ann.endpoint,
            keys=ann.keys,
            membership=ann.membership,
            store=ann.store,
            serve=ann.serve,
            notify=ann.notices.append,
            name_of=str,
        )
        idle.adopt(link)
        assert link.connection.closed.code == CloseCode.INTERRUPTED and not idle.current


@pytest.mark.parametrize("seed", range(6))
async def test_five_that_know_one_another_settle_to_one_link_each(autojump_clock, seed) -> None:
    async with mesh(seed, loss=0.05, jitter=0.03, reorder=0.05) as home:
        machines = [home.machine(name) for name in ("ann", "bob", "cid", "dan", "eve")]
        for one in machines:
            one.knows(*(each for each in machines if each is not one))
        home.start(*machines)
        await until(lambda: are_linked(*machines))
        await trio.sleep(30)
        assert are_linked(*machines)
        for one in machines:
            assert len(one.links._open) == 4 and not one.told(Trouble)
            for other in machines:
                if other is not one:
                    assert one.link(other).dialled_here != other.link(one).dialled_here


async def test_a_path_that_was_opened_is_dialled_at_once_whatever_else_is_tried(autojump_clock) -> None:
    async with mesh() as home:
        ann, bob = home.machine("ann"), home.machine("bob")
        remembers(ann, bob, *(Address(f"10.9.9.{number}", PORT) for number in range(1, 12)))
        home.start(ann, bob)
        await until(lambda: ann.dials)
        for _ in range(5):
            await trio.sleep(1)
        ann.links.punched(bob.node, bob.address)
        assert await until(lambda: are_linked(ann, bob)) < 1
        assert ann.link(bob).path is PathKind.WAN


async def test_a_link_across_the_internet_gives_way_to_a_nearer_one_and_stays_when_there_is_none(
    autojump_clock,
) -> None:
    async with mesh() as home:
        ann, bob = home.machine("ann"), home.machine("bob")
        home.start(ann, bob)
        await until(lambda: ann.links and bob.links)
        ann.links.punched(bob.node, bob.address)
        await until(lambda: are_linked(ann, bob))
        far = ann.link(bob)
        # An announcement that leads nowhere changes nothing, and is not tried for ever.
        ann.sees(bob, Address("10.9.9.9", PORT))
        ann.links._book.met(f"{bob.name:0>16}", Address("10.9.9.9", PORT), bob.node)
        ann.links.recheck()
        await trio.sleep(120)
        assert ann.link(bob) is far and len([to for _, to in ann.dials if to.host == "10.9.9.9"]) <= 5
        # One that leads to it does: by another address of the same machine.
        ann.sees(bob, Address(bob.host.addresses[1], PORT))
        await until(lambda: ann.link(bob) is not far, within=90)
        assert ann.link(bob).path is PathKind.LAN
        await until(lambda: far.connection.closed is not None, within=10)
        assert are_linked(ann, bob)
        dials = len(ann.dials)
        await trio.sleep(300)
        assert ann.link(bob).path is PathKind.LAN and len(ann.dials) == dials
