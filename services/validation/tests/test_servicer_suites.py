import asyncio
from typing import Any

import grpc
import pytest

from setpoint.common.v1 import column_pb2, value_pb2
from setpoint.validation.v1 import suite_pb2
from setpoint.validation.v1 import validation_service_pb2 as pb
from setpoint_rpc import channel
from setpoint_runtime import errors
from setpoint_validation import testing
from setpoint_validation.testing import Validation

CODE = grpc.StatusCode


async def failing(call: Any) -> tuple[grpc.StatusCode, errors.SetpointError]:
    """Await a call that fails; return its code and typed error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), channel.from_rpc_error(caught.value)


async def test_put_suite_returns_stored(validation: Validation) -> None:
    """A suite comes back with version, ids of rules and the service's time, and is read the same."""
    request = testing.put_request(
        testing.not_null("carrier"), testing.at_least("distance", 0), feature_set="flights"
    )
    answer = await validation.stub.PutSuite(request)
    found = (await validation.stub.GetSuite(pb.GetSuiteRequest(name="flights"))).suite
    assert answer.suite == found
    assert not answer.replayed
    assert len(found.version) == 64
    assert [rule.rule_id for rule in found.rules] == ["not_null_carrier", "range_distance"]
    assert found.create_time == validation.clock.now_us()


async def test_put_suite_replay(validation: Validation) -> None:
    """The same request again changes nothing; its id with another content is refused."""
    request = testing.put_request(testing.not_null("a"))
    first = await validation.stub.PutSuite(request)
    again = await validation.stub.PutSuite(request)
    assert (first.replayed, again.replayed) == (False, True)
    assert first.suite == again.suite
    request.suite.rules.append(testing.unique("a"))
    code, error = await failing(validation.stub.PutSuite(request))
    assert (code, error.reason) == (CODE.ALREADY_EXISTS, errors.Reason.REQUEST_ID_REUSED)


async def test_put_suite_versions(validation: Validation) -> None:
    """Content makes the version: changed it is new, changed back it is the old one, a description changes none."""
    put, get = validation.stub.PutSuite, validation.stub.GetSuite
    first = (await put(testing.put_request(testing.not_null("a")))).suite
    validation.clock.advance(5)
    second = (await put(testing.put_request(testing.not_null("b")))).suite
    described = testing.put_request(testing.not_null("b"), description="why")
    third = (await put(described)).suite
    assert first.version != second.version == third.version
    assert (third.description, third.create_time) == ("why", second.create_time)
    old = await get(pb.GetSuiteRequest(name="flights", version=first.version))
    assert old.suite == first
    back = (await put(testing.put_request(testing.not_null("a")))).suite
    assert back == first
    assert (await get(pb.GetSuiteRequest(name="flights"))).suite == first
    bound = (await put(testing.put_request(testing.not_null("a"), feature_set="f"))).suite
    assert bound.version not in (first.version, second.version)


Rule = suite_pb2.Rule
BAD_RULES = [
    (Rule(), "suite.rules[1]"),
    (Rule(not_null=suite_pb2.NotNullRule()), "suite.rules[1].not_null.column"),
    (Rule(severity=9, exists=suite_pb2.ExistsRule(column="a")), "suite.rules[1].severity"),  # type: ignore[arg-type]  # unknown on purpose
    (
        Rule(mostly=0.0, not_null=suite_pb2.NotNullRule(column="a")),
        "suite.rules[1].not_null_a.mostly",
    ),
    (Rule(mostly=0.5, exists=suite_pb2.ExistsRule(column="a")), "suite.rules[1].mostly"),
    (Rule(rule_id="Not ok", exists=suite_pb2.ExistsRule(column="a")), "suite.rules[1].rule_id"),
    (Rule(range=suite_pb2.RangeRule(column="a")), "suite.rules[1].range_a.min"),
    (Rule(range=suite_pb2.RangeRule(column="a", min=float("nan"))), "suite.rules[1].range_a.min"),
    (Rule(set=suite_pb2.SetRule(column="a")), "suite.rules[1].in_set_a.values"),
    (
        Rule(set=suite_pb2.SetRule(column="a", values=[value_pb2.Value(null_value=0)])),  # type: ignore[arg-type]  # numbers are enum values
        "suite.rules[1].in_set_a.values[0]",
    ),
    (Rule(regex=suite_pb2.RegexRule(column="a", pattern="(")), "suite.rules[1].regex_a.pattern"),
    (
        Rule(regex=suite_pb2.RegexRule(column="a", pattern="(a+)+")),
        "suite.rules[1].regex_a.pattern",
    ),
    (Rule(type=suite_pb2.TypeRule(column="a")), "suite.rules[1].type_a.dtypes"),
    (
        Rule(type=suite_pb2.TypeRule(column="a", dtypes=[column_pb2.DATA_TYPE_UNSPECIFIED])),
        "suite.rules[1].type.dtypes[0]",
    ),
    (Rule(unique=suite_pb2.UniqueRule()), "suite.rules[1].unique.columns"),
    (Rule(row_count=suite_pb2.RowCountRule(min=3, max=2)), "suite.rules[1].row_count.min"),
    (Rule(rule_id="first", exists=suite_pb2.ExistsRule(column="a")), "suite.rules[1].rule_id"),
]


async def test_put_suite_bad_rules(validation: Validation) -> None:
    """A rule that means nothing is refused by its place and field, and the service goes on."""
    for rule, field in BAD_RULES:
        request = testing.put_request(testing.not_null("x", "first"), rule)
        code, error = await failing(validation.stub.PutSuite(request))
        assert code == CODE.INVALID_ARGUMENT, field
        assert [violation.field for violation in error.violations] == [field]
        assert error.message.startswith(field)
    assert not (await validation.stub.ListSuites(pb.ListSuitesRequest())).suites


BAD_FIELDS = [
    ({"name": ""}, "suite.name", errors.Reason.INVALID_FIELD),
    ({"name": "a/../b"}, "suite.name", errors.Reason.INVALID_FIELD),
    ({"feature_set": "Über"}, "suite.feature_set", errors.Reason.INVALID_FIELD),
    ({"description": "x" * 5000}, "suite.description", errors.Reason.TOO_LARGE),
    ({"description": "a\0b"}, "suite.description", errors.Reason.INVALID_FIELD),
]


async def test_put_suite_bad_fields(validation: Validation) -> None:
    """A wrong field is named."""
    for change, field, reason in BAD_FIELDS:
        request = testing.put_request(testing.not_null("a"), **change)
        code, error = await failing(validation.stub.PutSuite(request))
        assert (code, error.reason) == (CODE.INVALID_ARGUMENT, reason), field
        assert [violation.field for violation in error.violations] == [field]


async def test_put_suite_without_rules(validation: Validation) -> None:
    """A suite that would let everything pass is refused."""
    code, error = await failing(validation.stub.PutSuite(testing.put_request()))
    assert (code, error.reason) == (CODE.INVALID_ARGUMENT, errors.Reason.MISSING_FIELD)


async def test_put_suite_bad_request_id(validation: Validation) -> None:
    """A call that could not be repeated safely is refused."""
    request = testing.put_request(testing.not_null("a"))
    for wrong in ("", "7", "x" * 36):
        request.request_id = wrong
        code, error = await failing(validation.stub.PutSuite(request))
        assert (code, error.violations[0].field) == (CODE.INVALID_ARGUMENT, "request_id")


async def test_put_suite_too_large(validation: Validation) -> None:
    """A suite is at most one mebibyte."""
    members = [value_pb2.Value(string_value=f"{number:0300}") for number in range(4000)]
    rule = Rule(set=suite_pb2.SetRule(column="a", values=members))
    code, error = await failing(validation.stub.PutSuite(testing.put_request(rule)))
    assert (code, error.reason) == (CODE.INVALID_ARGUMENT, errors.Reason.TOO_LARGE)
    assert error.violations[0].field == "suite"


async def test_put_suite_pushed_too_large(validation: Validation) -> None:
    """What is pushed to routers stays below the size of a message; suites for batches do not count."""
    members = [value_pb2.Value(string_value=f"{number:0300}") for number in range(3000)]
    rule = Rule(set=suite_pb2.SetRule(column="a", values=members))
    put = validation.stub.PutSuite
    for number in range(3):
        await put(testing.put_request(rule, name=f"s{number}", feature_set=f"f{number}"))
    await put(testing.put_request(rule, name="batches"))
    # One of those that count already may change.
    await put(testing.put_request(rule, testing.not_null("b"), name="s1", feature_set="f1"))
    code, error = await failing(put(testing.put_request(rule, name="s3", feature_set="f3")))
    assert (code, error.reason) == (CODE.FAILED_PRECONDITION, errors.Reason.TOO_LARGE)
    page = await validation.stub.ListSuites(pb.ListSuitesRequest())
    assert [suite.name for suite in page.suites] == ["batches", "s0", "s1"]
    request = pb.ListSuitesRequest(page_token=page.next_page_token)
    assert [suite.name for suite in (await validation.stub.ListSuites(request)).suites] == ["s2"]


async def test_put_suite_rule_of_sibling(validation: Validation) -> None:
    """Ids of row rules are unique among the suites of one feature set; elsewhere they may repeat."""
    put = validation.stub.PutSuite
    shared = testing.not_null("a", "known"), testing.unique("a")
    await put(testing.put_request(*shared, name="one", feature_set="f"))
    code, error = await failing(put(testing.put_request(*shared, name="two", feature_set="f")))
    assert (code, error.reason) == (CODE.ALREADY_EXISTS, errors.Reason.NAME_TAKEN)
    assert error.violations[0].field == "suite.rules[0].rule_id"
    assert error.metadata["suite"] == "one"
    # Other feature sets, suites for batches, rules about batches, and the suite itself are free to.
    await put(testing.put_request(*shared, name="two", feature_set="g"))
    await put(testing.put_request(*shared, name="three"))
    await put(testing.put_request(shared[1], name="four", feature_set="f"))
    await put(testing.put_request(*shared, testing.not_null("b"), name="one", feature_set="f"))


async def test_put_suite_awkward_values(validation: Validation) -> None:
    """Null characters, great numbers and non-ASCII texts survive storing."""
    texts = [value_pb2.Value(string_value=text) for text in ("a\0b", "é", "\\u0000", "")]
    numbers = [value_pb2.Value(double_value=1e300), value_pb2.Value(int_value=-(2**63))]
    request = testing.put_request(
        Rule(set=suite_pb2.SetRule(column="t", values=texts)),
        Rule(set=suite_pb2.SetRule(column="n", values=numbers, negate=True)),
        testing.at_least("x", 1e308),
    )
    stored = (await validation.stub.PutSuite(request)).suite
    assert [rule.set for rule in stored.rules][:2] == [rule.set for rule in request.suite.rules][:2]
    assert stored.rules[2].range.min == 1e308


async def test_get_suite_not_found(validation: Validation) -> None:
    """Unknown names and versions are not found, whatever they look like."""
    await validation.stub.PutSuite(testing.put_request(testing.not_null("a")))
    for name, version in [("other", ""), ("flights", "0" * 64), ("flights", "x\0")]:
        request = pb.GetSuiteRequest(name=name, version=version)
        code, error = await failing(validation.stub.GetSuite(request))
        assert (code, error.reason) == (CODE.NOT_FOUND, errors.Reason.SUITE_NOT_FOUND)


async def test_list_suites_pages(validation: Validation) -> None:
    """Pages follow the names, without gap or double."""
    names = ["a", "a-b", "a_b", "ab", "z"]
    for name in reversed(names):
        await validation.stub.PutSuite(testing.put_request(testing.not_null("x"), name=name))
    found, token = [], ""
    while True:
        page = await validation.stub.ListSuites(pb.ListSuitesRequest(page_size=2, page_token=token))
        found += [suite.name for suite in page.suites]
        token = page.next_page_token
        if not token:
            break
    assert found == sorted(names)
    code, error = await failing(validation.stub.ListSuites(pb.ListSuitesRequest(page_token="x")))
    assert (code, error.reason) == (CODE.INVALID_ARGUMENT, errors.Reason.INVALID_PAGE_TOKEN)


async def test_delete_suite(validation: Validation) -> None:
    """A deleted suite is gone but for its versions; putting it again brings it back."""
    stub = validation.stub
    put = testing.put_request(testing.not_null("a"))
    version = (await stub.PutSuite(put)).suite.version
    request = pb.DeleteSuiteRequest(request_id=testing.request_id(), name="flights")
    assert not (await stub.DeleteSuite(request)).replayed
    assert (await stub.DeleteSuite(request)).replayed
    code, error = await failing(stub.GetSuite(pb.GetSuiteRequest(name="flights")))
    assert (code, error.reason) == (CODE.NOT_FOUND, errors.Reason.SUITE_NOT_FOUND)
    assert not (await stub.ListSuites(pb.ListSuitesRequest())).suites
    old = await stub.GetSuite(pb.GetSuiteRequest(name="flights", version=version))
    assert old.suite.version == version
    request.request_id = testing.request_id()
    code, error = await failing(stub.DeleteSuite(request))
    assert (code, error.reason) == (CODE.NOT_FOUND, errors.Reason.SUITE_NOT_FOUND)
    # The first put is answered as it was, without bringing the suite back.
    assert (await stub.PutSuite(put)).replayed
    assert not (await stub.ListSuites(pb.ListSuitesRequest())).suites
    put.request_id = testing.request_id()
    await stub.PutSuite(put)
    assert (await stub.GetSuite(pb.GetSuiteRequest(name="flights"))).suite.version == version


async def test_put_suite_concurrently(validation: Validation) -> None:
    """Of several puts at once each is stored, and one id is worked on once."""
    same = testing.put_request(testing.not_null("a"))
    others = [testing.put_request(testing.not_null("b"), name=f"s{n}") for n in range(5)]
    answers = await asyncio.gather(*map(validation.stub.PutSuite, [same] * 4 + others))
    assert [answer.replayed for answer in answers[:4]].count(False) == 1
    assert len((await validation.stub.ListSuites(pb.ListSuitesRequest())).suites) == 6
