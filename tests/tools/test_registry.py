"""Declarations against the context, the manual, and each other."""

import inspect
import re
import typing
from pathlib import Path

import attrs
import pytest

from meshd import config, errors
from meshd.model import message
from meshd.tools import context, kinds, mail_operations, manual
from meshd.tools.kinds import JSON_LIMIT
from meshd.tools.operation import Audience, Operation, Tells
from meshd.tools.registry import BY_NAME, GROUPS, OPERATIONS
from tests.tools.samples import result_class

every_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)

METHODS = {
    name: method
    for name, method in vars(context.Context).items()
    if not name.startswith("_") and inspect.iscoroutinefunction(method)
}


def test_each_method_of_the_context_has_an_operation_and_each_operation_a_method() -> None:
    assert {each.source or each.name for each in OPERATIONS} == set(METHODS)
    assert len(BY_NAME) == len(OPERATIONS)


@every_operation
def test_arguments_are_those_of_the_method(operation: Operation) -> None:
    parameters = dict(inspect.signature(METHODS[operation.source or operation.name]).parameters)
    parameters.pop("self")
    told = parameters.pop("tell", None)
    assert (parameters.pop("session", None) is not None) == operation.session
    assert set(parameters) == {each.name for each in operation.arguments}
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters.values())
    assert (told is None) == (operation.tells is Tells.NOTHING)


@every_operation
def test_defaults_are_what_the_method_takes(operation: Operation) -> None:
    hints = typing.get_type_hints(METHODS[operation.source or operation.name])
    for each in operation.arguments:
        takes_none = type(None) in typing.get_args(hints[each.name])
        assert each.many == (typing.get_origin(hints[each.name]) is tuple)
        if not each.many and not each.is_required:
            assert takes_none == (each.default is None)


@every_operation
def test_the_answer_is_a_class_of_the_context(operation: Operation) -> None:
    answer = result_class(operation.result)
    assert attrs.has(answer)
    if not operation.derive:
        assert typing.get_type_hints(METHODS[operation.name])["return"] is answer
    if operation.payload:
        assert {"json", "path"} <= {each.name for each in attrs.fields(answer)}
    if operation.paged:
        assert {operation.paged, "next"} <= {each.name for each in attrs.fields(answer)}
        assert {"limit", "after"} <= {each.name for each in operation.arguments}
    assert bool(operation.asks) <= any(each.name == "dry_run" for each in operation.arguments)


@every_operation
def test_what_is_said_of_it_is_complete(operation: Operation) -> None:
    assert re.fullmatch(r"[A-Z].*[^.]\.", operation.summary)
    assert operation.examples
    assert all(f"tether {' '.join(operation.words)}" in each.line for each in operation.examples)
    assert all(issubclass(getattr(errors, each), errors.TetherError) for each in operation.errors)
    assert all(re.fullmatch(r".+[.\]]", each.meaning) for each in operation.arguments)


def test_words_name_one_thing_each() -> None:
    words = [each.words for each in OPERATIONS]
    assert len(set(words)) == len(words)
    assert {each[0] for each in words if len(each) > 1} == set(GROUPS)
    assert {each[0] for each in words if len(each) == 1} & set(GROUPS) == {"doctor"}


def test_who_belongs_and_what_the_machine_may_do_is_for_people() -> None:
    """protocol.md, section 12: no tool of an agent admits, revokes, blocks or sets anything."""
    for name in ("invite", "join", "revoke", "recovery_revoke", "block", "unblock", "leave", "init", "reload", "stop"):
        assert BY_NAME[name].audience is Audience.PEOPLE


def test_secrets_are_declared_as_such() -> None:
    secret = {(each.name, argument.name) for each in OPERATIONS for argument in each.arguments if argument.is_secret}
    assert secret == {("join", "code"), ("recovery_check", "words"), ("recovery_revoke", "words")}
    (code,) = (each for each in BY_NAME["join"].arguments if each.is_secret)
    assert code.env == config.ENV_PASSPHRASE


def test_constants_that_are_written_twice_are_equal() -> None:
    assert JSON_LIMIT == context.VALUE_LIMIT
    assert (kinds.MAIL_TEXT_LIMIT, kinds.SUBJECT_LIMIT) == (message.TEXT_LIMIT, message.SUBJECT_LIMIT)
    assert mail_operations.ENV_AGENT == config.ENV_AGENT


@every_operation
def test_arguments_are_checked(operation: Operation) -> None:
    with pytest.raises(errors.UsageError, match="no argument 'another'"):
        operation.check({"another": 1})
    for each in operation.arguments:
        if each.is_required:
            with pytest.raises(errors.UsageError, match="needs the argument"):
                operation.check({})
            break
    else:
        checked = operation.check({})
        assert set(checked) == {each.name for each in operation.arguments}
        assert all(checked[each.name] == () for each in operation.arguments if each.many)


@every_operation
def test_an_object_is_no_argument_of_any(operation: Operation) -> None:
    for each in operation.arguments:
        with pytest.raises(errors.UsageError, match=f"^{each.name}: "):
            each.check({"a": 1})
        with pytest.raises(errors.UsageError, match=f"^{each.name}: "):
            each.check([{"a": 1}])


def test_the_manual_lists_the_commands_as_they_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tether.md").read_text(encoding="utf-8")
    assert manual.rewritten(page) == page, "run: python -m meshd.tools.manual docs/tether.md"
    assert all(f"### `tether {' '.join(each.words)}`" in page for each in OPERATIONS)
