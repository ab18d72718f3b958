"""Parts of a node that need no network: news, problems, membership, which mesh and machine is meant."""

from typing import Any

import pytest
import trio
import trio.testing

from meshd.errors import NobodyFoundError, UsageError
from meshd.model.identity import NodeId, node_text
from meshd.node import problems
from meshd.node.calls import Calls
from meshd.node.membership import MeshMembership
from meshd.node.news import KEPT, News
from meshd.node.problems import Problems
from meshd.notices import LinkDown, Notice, RecordsStored, Trouble
from tests.model.mesh_kit import Mesh


def trouble(number: int = 0) -> Trouble:
    return Trouble(f"Trouble {number}.", "", "warning")


class TestNews:
    async def test_a_follower_gets_what_was_kept_and_what_comes(self) -> None:
        seen: list[Notice] = []
        news = News(seen.append)
        news.tell(trouble(1))
        news.tell(RecordsStored("m", "n", 1, True))
        with news.follow(8) as listener:
            assert [notice for notice, _ in listener.kept] == [trouble(1)], "counts of records are worth nothing later"
            news.tell(trouble(2))
            news.tell(RecordsStored("m", "n", 2, True))
            assert [notice for notice, _ in await listener.next()] == [trouble(2), RecordsStored("m", "n", 2, True)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listener.next)
                await trio.testing.wait_all_tasks_blocked()
                news.tell(trouble(3))
        assert len(seen) == 5

    async def test_who_is_slow_loses_the_oldest_and_holds_nobody_up(self) -> None:
        news = News(lambda notice: None)
        with news.follow(4) as slow, news.follow(100) as quick:
            for number in range(10):
                news.tell(trouble(number))
            assert [notice for notice, _ in await slow.next()] == [trouble(number) for number in range(6, 10)]
            assert slow.lost == 6
            assert len(await quick.next()) == 10 and not quick.lost
        news.tell(trouble())
        assert not slow._waiting, "who has gone is told nothing"

    async def test_what_is_kept_is_bounded(self) -> None:
        news = News(lambda notice: None)
        for number in range(KEPT + 10):
            news.tell(trouble(number))
        with news.follow(1) as listener:
            assert len(listener.kept) == KEPT and listener.kept[-1][0] == trouble(KEPT + 9)


class TestProblems:
    def test_troubles_are_shown_once_each_for_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 1000.0
        monkeypatch.setattr(problems.time, "monotonic", lambda: now)
        found = Problems()
        for _ in range(3):
            found.note(trouble(1))
        found.note(LinkDown("m", "n", "ben", "why"))
        found.note(trouble(2))
        assert [each.what for each in found.of(None)] == ["Trouble 1.", "Trouble 2."]
        now += problems.RECENT / 2
        found.note(trouble(1))
        now += problems.RECENT / 2 + 1
        assert [each.what for each in found.of(None)] == ["Trouble 1."], "it happened again; the other is over"

    def test_they_are_bounded(self) -> None:
        found = Problems()
        for number in range(100):
            found.note(trouble(number))
        assert [each.what for each in found.of(None)] == [
            f"Trouble {number}." for number in range(100 - problems.TROUBLES, 100)
        ]


class TestMembership:
    """`a` is this machine; `b` a member, `c` blocked, `out` revoked, and `gone` suspended with it."""

    @pytest.fixture
    def mesh(self) -> Mesh:
        mesh = Mesh()
        mesh.admit("f", "a", "b", "c", "out")
        mesh.admit("out", "gone")
        mesh.revoke("f", "out")
        return mesh

    @pytest.fixture
    def membership(self, mesh: Mesh) -> MeshMembership:
        roster, blocked = mesh.roster(), {mesh["c"].keys.identity.node}
        return MeshMembership(
            mesh["a"].keys, lambda: roster, lambda: [b"s" * 32], lambda: blocked, lambda: [b"admission"]
        )

    def test_members_are_the_active_ones_but_us_and_whom_we_block(self, mesh: Mesh, membership: MeshMembership) -> None:
        assert {each.node for each in membership.members()} == {mesh[name].keys.identity.node for name in "fb"}
        assert membership.mesh == mesh.id
        assert (list(membership.secrets()), list(membership.introduction())) == ([b"s" * 32], [b"admission"])

    @pytest.mark.parametrize(("name", "known"), [("f", True), ("b", True), ("a", False), ("c", False), ("out", False)])
    def test_a_noise_key_is_known_of_these_only(
        self, mesh: Mesh, membership: MeshMembership, name: str, known: bool
    ) -> None:
        identity = mesh[name].keys.identity
        assert membership.by_noise(identity.noise_key) == (identity if known else None)
        assert membership.by_noise(bytes(32)) is None

    def test_introductions_are_believed_of_members_and_of_nobody_who_is_blocked(
        self, mesh: Mesh, membership: MeshMembership
    ) -> None:
        mesh.admit("b", "new")
        mesh.admit("b", "c")
        (new, again) = [record.encode() for record, _ in mesh["b"].written]
        identity = mesh["new"].keys.identity
        assert membership.introduced(identity.noise_key, identity.signing_key, [new]) == identity
        assert membership.introduced(identity.noise_key, identity.signing_key, [again]) is None
        blocked = mesh["c"].keys.identity
        assert membership.introduced(blocked.noise_key, blocked.signing_key, [again]) is None

    def test_a_newcomer_that_is_blocked_already_is_not_let_in_by_its_introduction(self, mesh: Mesh) -> None:
        identity, roster = mesh["new"].keys.identity, mesh.roster()
        mesh.admit("b", "new")
        records = [record.encode() for record, _ in mesh["b"].written]
        for blocked, expected in ((set[NodeId](), identity), ({identity.node}, None)):
            membership = MeshMembership(
                mesh["a"].keys, lambda: roster, list[bytes], lambda blocked=blocked: blocked, list[bytes]
            )
            assert membership.introduced(identity.noise_key, identity.signing_key, records) == expected


class TestWhichIsMeant:
    def calls(self, *named: tuple[str, str], unopened: Any = ()) -> Calls:
        meshes = {text: type("Mesh", (), {"name": name, "hex": text}) for name, text in named}
        node: Any = type("Node", (), {"meshes": meshes, "unopened": list(unopened)})
        return Calls(node)

    def test_a_mesh_need_not_be_named_where_there_is_one(self) -> None:
        assert self.calls(("home", "ab" * 32)).mesh(None).name == "home"

    def test_a_mesh_goes_by_its_name_in_any_case_or_the_beginning_of_its_id(self) -> None:
        calls = self.calls(("home", "ab" * 32), ("work", "cd" * 32))
        assert calls.mesh("HOME").name == "home"
        assert calls.mesh("CDcd").name == "work"
        with pytest.raises(UsageError, match="home, work"):
            calls.mesh(None)
        with pytest.raises(NobodyFoundError, match="no mesh called 'cdc'"):
            calls.mesh("cdc")

    def test_a_name_that_two_have_is_refused_with_what_tells_them_apart(self) -> None:
        with pytest.raises(UsageError, match="abababababababab or cdcdcdcdcdcdcdcd"):
            self.calls(("home", "ab" * 32), ("Home", "cd" * 32)).mesh("home")

    def test_where_there_is_none_it_says_how_to_get_one(self) -> None:
        with pytest.raises(NobodyFoundError, match="tether init"):
            self.calls().mesh(None)

    def test_a_machine_goes_by_its_name_or_id(self) -> None:
        mesh = Mesh()
        mesh.admit("f", "ann", "ben")
        mesh.rename("ben", "Ann")
        here: Any = type("Mesh", (), {"roster": mesh.roster(), "name": "lab"})
        calls = self.calls()
        node = mesh["ben"].keys.identity.node
        assert calls.member(here, node_text(node)[:8]).node == node
        assert calls.member(here, "F").name == "f"
        with pytest.raises(UsageError, match=r"Ann \("):
            calls.member(here, "ann")
        with pytest.raises(NobodyFoundError):
            calls.member(here, "zoe")
