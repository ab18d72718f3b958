"""Two machines and more that bring each other up to date: what is told, asked and pushed, and what it costs."""

import pytest

from meshd.model.record import Log, LogId
from meshd.model.roster import Standing
from meshd.protocol.replica import FAREWELL
from meshd.protocol.replication import STORE_PAUSE, Replication
from meshd.protocol.replication_events import Echoed, Outsider, ReadDue, RecordsArrived, Settled
from meshd.wire.sync import Heads, Tip
from tests.protocol.replication_kit import Member, lab


def write(member: Member, count: int, size: int = 20) -> None:
    for number in range(count):
        member.say("test.note", f"{member.name} {number} ".encode().ljust(size, b"."))


def equal(*members: Member) -> bool:
    return all(member.heads() == members[0].heads() for member in members)


def test_what_one_has_the_other_gets() -> None:
    _, cluster, members = lab("a", "b")
    a, b = members["a"], members["b"]
    write(a, 50)
    write(b, 30)
    cluster.join(a, b)
    cluster.settle()
    assert equal(a, b) and len(a.seen) == len(a.records()) == 3 + 80
    assert a.saw(Settled) and b.saw(Settled) and a.heard_of_itself and b.heard_of_itself


def test_a_long_chain_comes_in_batches_and_in_order() -> None:
    _, cluster, members = lab("a", "b")
    a, b = members["a"], members["b"]
    write(a, 300, size=4000)
    wire = cluster.join(a, b)
    cluster.settle()
    assert equal(a, b)
    batches = [event for event in b.events if isinstance(event, RecordsArrived)]
    assert len(batches) > 4 and wire.carried < 300 * 4400
    numbers = [each.record.header.sequence for event in batches for each in event.records]
    assert numbers == sorted(numbers) and len(set(numbers)) == len(numbers)


def test_what_is_written_while_linked_is_pushed_at_once_and_once() -> None:
    _, cluster, members = lab("a", "b", "c")
    a, b, c = members["a"], members["b"], members["c"]
    for one, two in ((a, b), (b, c), (a, c)):
        cluster.join(one, two)
    cluster.settle()
    before = sum(wire.carried for wire in cluster.wires)
    a.say("test.note", b"x" * 1000)
    while cluster.step():  # no time passes: nothing had to be asked for
        pass
    assert equal(a, b, c)
    assert [event.number for event in b.events if isinstance(event, RecordsArrived)] == [0]
    cluster.settle()
    # Two pushes, and after a while who has it says so to both others.
    assert sum(wire.carried for wire in cluster.wires) - before < 2 * 1300 + 6 * 100


def test_who_has_news_already_is_told_once_of_many() -> None:
    _, cluster, members = lab("a", "b", "c")
    a, b, c = members["a"], members["b"], members["c"]
    for one, two in ((a, b), (b, c), (a, c)):
        cluster.join(one, two)
    cluster.settle()
    before = sum(wire.carried for wire in cluster.wires)
    for _ in range(20):
        a.say("test.note", b"x" * 1000)
        while cluster.step():
            pass
    cluster.settle()
    assert equal(a, b, c)
    assert sum(wire.carried for wire in cluster.wires) - before < 20 * 2 * 1300 + 4 * 100


def test_pushes_go_on_after_a_peer_could_not_take_them() -> None:
    _, cluster, members = lab("a", "b")
    a, b = members["a"], members["b"]
    cluster.join(a, b)
    cluster.settle()
    b.full = True
    write(a, 600, size=1000)  # the window is full of what nobody took
    cluster.settle()
    b.full = False
    cluster.settle(2 * STORE_PAUSE)
    assert equal(a, b)
    b.events.clear()
    a.say("test.note", b"pushed again")
    while cluster.step():
        pass
    assert equal(a, b) and [event.number for event in b.events if isinstance(event, RecordsArrived)] == [0]


def test_a_record_travels_through_a_mutual_member() -> None:
    _, cluster, members = lab("a", "b", "c")
    a, b, c = members["a"], members["b"], members["c"]
    cluster.join(a, b)
    wire = cluster.join(b, c)
    cluster.settle()
    write(a, 20)
    cluster.settle()
    assert equal(a, b, c)
    cluster.cut(wire)
    write(a, 1000)
    cluster.settle()
    cluster.join(c, b)
    cluster.settle()
    assert equal(a, b, c)


def test_what_cannot_be_pushed_because_the_peer_is_behind_is_pulled() -> None:
    _, cluster, members = lab("a", "b")
    a, b = members["a"], members["b"]
    wire = cluster.join(a, b)
    cluster.settle()
    write(a, 600, size=1000)  # more than a window of pushes
    under_way = wire.load() and sum(map(len, wire.under_way.values()))
    assert under_way < 300_000
    cluster.settle()
    assert equal(a, b) and b.stored == len(b.seen)


def test_one_chain_is_asked_of_one_peer_and_of_another_when_that_one_dies() -> None:
    _, cluster, members = lab("a", "b", "c", "d")
    a, b, c, d = (members[name] for name in "abcd")
    write(a, 400, size=2000)
    for other in (b, c):
        other.begin([record for record in a.records() if record.hash not in other.seen])
    first, second = cluster.join(d, b), cluster.join(d, c)
    while len(d.records()) < 100:
        cluster.step()
    carriers = [wire for wire in (first, second) if wire.carried > 50_000]
    assert len(carriers) == 1, "one chain came from two sides at once"
    cluster.cut(carriers[0])
    cluster.settle()
    assert equal(a, d) and d.stored == len(d.seen)
    assert sum(wire.carried for wire in (first, second)) < 1.8 * 400 * 2200  # some batches were lost with the link


def test_a_peer_that_is_slow_does_not_keep_others_from_being_asked() -> None:
    _, cluster, members = lab("a", "b", "c")
    a, b, c = (members[name] for name in "abc")
    write(a, 100)
    b.begin([record for record in a.records() if record.hash not in b.seen])
    slow = cluster.join(c, a)
    while not a.saw(ReadDue):
        slow.load()
        slow.deliver(0, 1 << 20)
        slow.deliver(1, 1 << 20)
    cluster.wires.remove(slow)  # from here on it is silent, and nobody has noticed
    cluster.join(c, b)
    cluster.settle(2)
    assert not equal(a, c)
    cluster.settle(8)
    assert equal(a, c)


def test_a_peer_that_does_not_answer_is_given_up() -> None:
    _, cluster, members = lab("a", "b")
    a, b = members["a"], members["b"]
    write(a, 10)
    wire = cluster.join(a, b)
    while not a.saw(ReadDue):
        wire.load()
        wire.deliver(0, 1 << 20)
        wire.deliver(1, 1 << 20)
    cluster.wires.clear()
    b.machine.data_to_send(wire.number_of_two, cluster.now)
    for _ in range(30):
        cluster.pass_time(1)
    b.work(wire.number_of_two)
    assert "did not send records" in str(b.events[-1])
    assert wire.is_over()


def test_a_peer_that_never_tells_its_heads_is_given_up() -> None:
    _, cluster, members = lab("a", "b")
    a = members["a"]
    number = a.machine.linked(members["b"].key, 0.0)
    cluster.pass_time(31)
    a.work(number)
    assert "did not say in time" in str(a.events[-1])


def test_the_roster_comes_first_and_a_revoked_peer_hears_nothing_more() -> None:
    mesh, cluster, members = lab("a", "b")
    f, a, b = members["f"], members["a"], members["b"]
    write(a, 10)
    f.append(mesh.revocation("b"))
    cluster.join(f, a)
    cluster.settle()
    before = len(b.records())
    # `b` has not heard that it is out; the session below would have refused it, this is the second door.
    wire = cluster.join(a, b)
    cluster.settle()
    assert a.saw(Outsider) and not a.saw(Settled)[1:]
    assert not [record for record in b.records() if record.header.log is Log.DATA], "data went to who is revoked"
    assert wire.is_over() and len(b.records()) >= before


def test_a_member_that_is_revoked_while_linked_is_put_out() -> None:
    mesh, cluster, members = lab("a", "b")
    f, a, b = members["f"], members["a"], members["b"]
    cluster.join(f, a)
    wire = cluster.join(a, b)
    cluster.settle()
    f.append(mesh.revocation("b"))
    cluster.settle()
    assert a.saw(Outsider) and wire.is_over()
    a.say("test.note", b"not for b")
    cluster.settle()
    assert b"not for b" not in [record.body for record in b.records()]
    assert b.roster.members[b.key].standing is Standing.REVOKED, "it has been told why"


def test_who_is_out_is_told_the_reason_and_nothing_else() -> None:
    mesh, cluster, members = lab("a", "b")
    f, b = members["f"], members["b"]
    wire = cluster.join(f, b)
    cluster.settle()
    for number in range(20):
        f.say("test.note", b"%d" % number)  # pushed, and not yet on its way
    f.append(mesh.revocation("b"))
    cluster.settle()
    arrived = [each.record.header.log for event in b.saw(RecordsArrived) for each in event.records]
    assert arrived == [Log.ROSTER] and wire.is_over()


def test_who_is_out_and_does_not_answer_is_let_go_all_the_same() -> None:
    mesh, cluster, members = lab("a", "b")
    f, b = members["f"], members["b"]
    wire = cluster.join(f, b)
    cluster.settle()
    b.full = True
    f.append(mesh.revocation("b"))
    cluster.settle(FAREWELL / 2)
    assert b.saw(RecordsArrived) and not f.saw(Outsider), "an echo would say that it is stored"
    cluster.settle(FAREWELL)
    assert len(f.saw(Outsider)) == 1 and wire.is_over()
    assert f.machine.next_deadline() is None


def test_an_echo_says_that_what_came_before_is_stored() -> None:
    _, cluster, members = lab("a", "b")
    a, b = members["a"], members["b"]
    wire = cluster.join(a, b)
    cluster.settle()
    (_, at_a), (_, at_b) = wire.ends
    for disk_full in (False, True):
        record = a.say("test.note", b"first")
        a.machine.probe(at_a, b"is it so", a.now)
        b.machine.receive_data(at_b, a.machine.data_to_send(at_a, a.now), b.now)
        assert not b.machine.data_to_send(at_b, b.now), "it was answered before the record was stored"
        b.full = disk_full
        b.work(at_b)
        a.machine.receive_data(at_a, b.machine.data_to_send(at_b, b.now), a.now)
        assert (record.hash in b.seen) is not disk_full
        event = a.machine.next_event(at_a)
        assert event is None if disk_full else isinstance(event, Echoed)


def test_a_newcomer_is_heard_of_by_the_roster_first() -> None:
    mesh, cluster, members = lab("a")
    f, a = members["f"], members["a"]
    mesh.admit("f", "n")
    new = mesh["f"].written[-1][0]
    f._keep(new)
    f.publish([new])
    n = cluster.add(Member(mesh, "n").begin([record for record, _ in mesh["f"].written]))
    write(n, 5)
    cluster.join(n, a)  # a does not know n yet
    cluster.settle()
    assert equal(n, a) and not a.saw(Outsider)


def test_expired_records_travel_as_headers() -> None:
    _, cluster, members = lab("a", "b")
    a, b = members["a"], members["b"]
    record = a.say("test.note", b"gone soon", ttl=5)
    a.chains[record.chain][0] = record.without_body()
    write(a, 3)
    cluster.join(a, b)
    cluster.settle()
    assert equal(a, b) and b.chains[record.chain][0].body is None


def test_news_of_a_disk_that_refuses_stops_the_questions_for_a_while() -> None:
    _, cluster, members = lab("a", "b")
    a, b = members["a"], members["b"]
    write(a, 2000, size=1000)
    wire = cluster.join(a, b)
    while not any(isinstance(event, RecordsArrived) for event in b.events):
        wire.load()
        wire.deliver(0, 1 << 20)
        b.machine.receive_data(wire.number_of_two, b"", cluster.now)
        if wire.under_way[1]:
            wire.deliver(1, 1 << 20)
    b.machine.refused(next(event for event in b.events if isinstance(event, RecordsArrived)), cluster.now)
    cluster.settle()
    some = len(b.records())
    cluster.settle(STORE_PAUSE / 2)
    assert some == len(b.records()) < 1000
    cluster.settle(STORE_PAUSE)
    assert equal(a, b)


def fabricated(authors: int, records: int) -> dict[LogId, Tip]:
    """Heads of so many chains as a long history makes them."""
    return {
        LogId(number.to_bytes(32, "big"), Log.DATA, 1): Tip(records, bytes([7]) * 32, records * 300)
        for number in range(1, authors + 1)
    }


def cost(history: int) -> int:
    """Bytes on the wire when two members with an equal history of that length differ in 100 records."""
    _, cluster, members = lab("a", "b")
    a, b = members["a"], members["b"]
    write(a, 50, size=200)
    write(b, 50, size=200)
    for each in (a, b):
        each.machine = Replication(each.key, each.roster, {**each.tips, **fabricated(100, history // 100)})
    wire = cluster.join(a, b)
    cluster.settle()
    assert len(a.records()) == len(b.records()) == 3 + 100
    return wire.carried


def test_cost_grows_with_the_difference_and_not_with_the_history() -> None:
    small = cost(200_000)
    assert small < 200 * 1024
    assert cost(1_000_000) == small


def test_heads_alone_are_a_hundred_bytes_a_chain() -> None:
    (chain, tip), *_ = fabricated(1, 1000).items()
    assert len(Heads(Log.DATA, True, ((chain, tip),)).encode()) < 100


def test_lag_says_how_much_is_missing_on_which_side() -> None:
    _, cluster, members = lab("a", "b")
    a, b = members["a"], members["b"]
    wire = cluster.join(a, b)
    cluster.settle()
    write(a, 5, size=100)
    lag = a.machine.lag(wire.number_of_one)
    assert lag.records_there == 5 and 5 * 100 < lag.bytes_there < 5 * 500 and lag.records_here == 0
    cluster.settle()
    assert a.machine.lag(wire.number_of_one).records_there == 0 == b.machine.lag(wire.number_of_two).records_here


def test_a_probe_comes_back_with_its_time() -> None:
    _, cluster, members = lab("a", "b")
    a = members["a"]
    wire = cluster.join(a, members["b"])
    cluster.settle()
    a.machine.probe(wire.number_of_one, b"12345678", cluster.now)
    wire.load()
    cluster.pass_time(0.25)
    cluster.settle()
    assert [event.round_trip for event in a.events if hasattr(event, "round_trip")] == [pytest.approx(0.25)]


def test_a_machine_that_has_nothing_to_do_has_no_deadline() -> None:
    _, cluster, members = lab("a", "b")
    cluster.join(members["a"], members["b"])
    cluster.settle(1)
    assert members["a"].machine.next_deadline() is None
