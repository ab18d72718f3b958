"""Mail to a machine that is off, past one that is up, from one that is off by then: there once, with true states."""

import secrets
from typing import Any

from tests.daemons import Daemon, all_linked, eventually, links
from tests.lab.capture import forms

BRIEF = "2s"
"""Time to live of a message that is over before its reader's machine comes back."""


def state(daemon: Daemon, handle: str) -> str:
    """What the sender sees."""
    found: str = daemon.call("sent", handle=handle)["messages"][0]["state"]
    return found


def inbox(daemon: Daemon, agent: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.call("inbox", agent=agent)["messages"]
    return found


def on_disk(daemon: Daemon) -> bytes:
    """Every byte of a daemon's files, its log among them, without a difference between cases."""
    files = [path for top in (daemon.state, daemon.directory) for path in top.rglob("*") if path.is_file()]
    return b"\n".join(path.read_bytes() for path in files).lower()


def test_mail_for_who_is_off_comes_past_a_third_and_says_nothing_to_it(mesh) -> None:
    """Acceptance 2."""
    ann, bob, cat = mesh("ann", "bob", "cat")
    mark = secrets.token_hex(6)
    text, subject, sender, reader, ticket, tag, thread, reason = (
        f"{what}-{mark}" for what in ("text", "subject", "sender", "reader", "ticket", "tag", "thread", "reason")
    )
    bob.stop()
    eventually(lambda: "bob" not in links(ann), "ann sees that bob is gone")
    options = ("--from", sender, "--ticket", ticket, "--tag", tag, "--thread", thread)
    sent = ann.json("send", f"{reader}@bob", f"about {subject}", f"the {text}, for your eyes", *options)
    brief = ann.json("send", f"{reader}@bob", f"brief {subject}", text, "--from", sender, "--ttl", BRIEF)
    assert (sent["state"], brief["state"]) == ("stored", "stored")
    eventually(lambda: links(ann)["cat"]["they_lack_records"] == 0, "cat carries it")
    assert state(ann, sent["full"]) == "stored", "who carries it is not who it is for"
    assert "only carries it, sealed" in cat.fails(6, "receive", sent["full"], "--for", reader)
    assert inbox(cat, reader) == [] and cat.json("search", text)["messages"] == []
    eventually(lambda: cat.run("receive", brief["full"]).code == 4, "the brief one expires on its way")
    assert "has expired" in ann.fails(4, "sent", brief["full"])
    ann.stop()
    carried = on_disk(cat)

    bob.start()
    assert [each["full"] for each in eventually(lambda: inbox(bob, reader), "it is there")] == [sent["full"]]
    assert links(bob).keys() == {"cat"}, "it did not come from its sender"
    message = bob.json("receive", sent["full"], "--for", reader)
    assert (message["text"], message["subject"]) == (f"the {text}, for your eyes", f"about {subject}")
    assert (message["sender"]["name"], message["origin"]["name"]) == (sender, "ann")
    bob.tether("close", sent["full"], "--for", reader, "--reason", reason)

    ann.start()
    all_linked(ann, bob, cat)
    eventually(lambda: state(ann, sent["full"]) == "read", "ann learns that it was read")
    eventually(lambda: reason in ann.tether("receive", sent["full"], "--for", sender).out, "and closed, and why")
    found = bob.call("inbox", agent=reader, include_closed=True)["messages"]
    assert [each["full"] for each in found] == [sent["full"]], "once, and the brief one never"

    after = on_disk(cat)
    for disk in (carried, after):
        for word in (text, subject, ticket, tag, thread, reason):
            assert not [form for form in forms(word) if form in disk], word
        # What an agent says of itself is for all members: the same search finds it, or it would prove nothing.
        assert sender.encode() in disk
    assert not [form for form in forms(reader) if form in carried], "for whom on that machine it is, is sealed"
    assert reader.encode() in after, "the reader has made itself known by reading"
