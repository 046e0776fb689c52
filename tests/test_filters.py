"""Conditions on metadata: what they match, and how they are written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.errors import ConfigError
from connector.filters import AnyOf, Between, Condition, Equals, Scalar, matches, parse
from connector.model import JsonValue


@pytest.mark.parametrize(
    "condition,holds,fails",
    [
        (Equals("f", "en"), ["en", ["de", "en"]], ["EN", "", None, [], ["de"], [["en"]], {"f": "en"}, 1, True]),
        (Equals("f", ""), ["", [""]], [None, [], 0, False]),
        (Equals("f", "2"), ["2"], [2, 2.0]),
        (Equals("f", 2), [2, 2.0, [1, 2]], ["2", 3, None, True, [[2]], {"f": 2}]),
        (Equals("f", 1), [1, 1.0], [True, [True], "1"]),
        (Equals("f", 0), [0, -0.0], [False, None, ""]),
        (Equals("f", True), [True, [False, True]], [1, 1.0, "true", False]),
        (Equals("f", False), [False], [0, None, True, ""]),
        (Equals("f", 2**53), [2**53, 2.0**53], [2**53 + 1]),
        (AnyOf("f", ("en", 2)), ["en", 2, 2.0, ["x", 2]], ["de", "2", None, []]),
        (AnyOf("f", ()), [], ["en", None, []]),
        (Between("f"), [0, -1.5, [None, 3]], ["0", None, True, [], [False]]),
        (Between("f", at_least=2), [2, 2.0, 3], [1.9, "3", True]),
        (Between("f", above=2), [2.1], [2, 2.0]),
        (Between("f", at_most=2), [2, -9], [2.1, None]),
        (Between("f", below=2), [1.9], [2]),
        (Between("f", at_least=2, below=4), [2, 3.9, [9, 3]], [4, [1, 5]]),
        (Between("f", above=2.0**53), [2**53 + 1], [2**53]),
    ],
)
def test_a_condition_holds_for_these_values_and_not_for_those(
    condition: Condition, holds: list[JsonValue], fails: list[JsonValue]
) -> None:
    assert [value for value in holds if not matches({"f": value}, [condition])] == []
    assert [value for value in fails if matches({"f": value}, [condition])] == []
    assert not matches({"g": "en"}, [condition])


def test_all_conditions_have_to_hold_and_no_condition_always_does() -> None:
    metadata: dict[str, JsonValue] = {"lang": "en", "year": 2020}
    assert matches(metadata, [])
    assert matches(metadata, [Equals("lang", "en"), Between("year", above=2019)])
    assert not matches(metadata, [Equals("lang", "en"), Between("year", above=2020)])


@pytest.mark.parametrize(
    "text,condition",
    [
        ("lang=en", Equals("lang", "en")),
        (" lang = en ", Equals("lang", "en")),
        ("title=made in china", Equals("title", "made in china")),
        ("title=a,b", Equals("title", "a,b")),
        ("formula=a=b<c", Equals("formula", "a=b<c")),
        ("year=2020", Equals("year", 2020)),
        ('year="2020"', Equals("year", "2020")),
        ("year=-1.5e3", Equals("year", -1500.0)),
        ("code=007", Equals("code", "007")),
        ("code=+7", Equals("code", "+7")),
        ("code=NaN", Equals("code", "NaN")),
        ("big=9007199254740993", Equals("big", 2**53 + 1)),
        ("draft=true", Equals("draft", True)),
        ("draft=false", Equals("draft", False)),
        ("draft=True", Equals("draft", "True")),
        ('draft="true"', Equals("draft", "true")),
        ('name=""', Equals("name", "")),
        (r'name="a \"b\" \u00fc"', Equals("name", 'a "b" ü')),
        ('name=the "best"', Equals("name", 'the "best"')),
        ("a.b c=x", Equals("a.b c", "x")),
        ("in=x", Equals("in", "x")),
        ('"a<b"=x', Equals("a<b", "x")),
        ('""=x', Equals("", "x")),
        ('"2019"=x', Equals("2019", "x")),
        ("2019=x", Equals("2019", "x")),
        ("lang in en,de", AnyOf("lang", ("en", "de"))),
        ("lang in en", AnyOf("lang", ("en",))),
        ("lang  in  en , de ", AnyOf("lang", ("en", "de"))),
        ('year in 2019, 2020.5,"2021",true', AnyOf("year", (2019, 2020.5, "2021", True))),
        ('lang in "a,b","c=d",e f', AnyOf("lang", ("a,b", "c=d", "e f"))),
        ('"a in b" in x', AnyOf("a in b", ("x",))),
        ('"a=b" in x', AnyOf("a=b", ("x",))),
        ("year>=2019", Between("year", at_least=2019)),
        ("year>2019", Between("year", above=2019)),
        ("year <= 2019.5", Between("year", at_most=2019.5)),
        ("year<-1", Between("year", below=-1)),
        ("2019<=year", Between("year", at_least=2019)),
        ("2019>year", Between("year", below=2019)),
        ("2019<=year<2024", Between("year", at_least=2019, below=2024)),
        ("2019 < year <= 2024", Between("year", above=2019, at_most=2024)),
        ("2024>year>=2019", Between("year", at_least=2019, below=2024)),
        ('1<"2"<3', Between("2", above=1, below=3)),
        ('"1"<3', Between("1", below=3)),
    ],
)
def test_a_condition_is_written_so(text: str, condition: Condition) -> None:
    parsed = parse(text)
    assert parsed == condition
    assert [type(value) for value in values_of(parsed)] == [type(value) for value in values_of(condition)]


@pytest.mark.parametrize(
    "text,said",
    [
        ("", "it is no field, operator and value"),
        ("lang", "it is no field, operator and value"),
        ("=en", "it is no field, operator and value"),
        ("lang=", 'a value is missing; the empty text is written ""'),
        ("lang in", "a value is missing"),
        ("lang in ", "a value is missing"),
        ("lang in en,,de", "a value is missing"),
        ("lang in en,", "a value is missing"),
        ("lang==en", '"=en" is no value'),
        ("lang!=en", 'there is no operator "!="'),
        ("lang=>en", '">en" is no value'),
        ("lang=null", "nothing equals null"),
        ("year>=soon", '"soon" is not a number'),
        ('year>="2019"', "is not a number"),
        ("year>=", '"" is not a number'),
        ("year>=1e999", "is too large a number"),
        ("year=" + "9" * 5000, "is too large a number"),
        ("2019<=", 'after "2019<=" there is no field'),
        ("2019<=year=2024", 'after "2019<=" there is no field'),
        ("2019<=year>2024", "do not point in one direction"),
        ("2019<=year<later", '"later" is not a number'),
        ("made in china=yes", 'both "in" and an operator'),
        ('name="open', "is not text in double quotes"),
        (r'name="\x"', "is not text in double quotes"),
        ('name="a" b', "is not text in double quotes"),
        ('name in "a" b,c', "has to end where the value does"),
        ('"open=x', "it is no field, operator and value"),
        ("lang=\ud83d".replace("lang=", 'lang="') + '"', "is not text in double quotes"),
    ],
    ids=ascii,
)
def test_what_is_not_understood_is_named_with_an_example(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    message = str(caught.value)
    assert said in message
    assert message.startswith(f"the condition {json.dumps(text, ensure_ascii=False)} is not understood: ")
    assert message.endswith("; write, for example, lang=en, year>=2019, 2019<=year<2024 or lang in en,de")
    assert "\n" not in message


TEXTS = st.text(st.characters(exclude_categories=("Cs",)))
SCALARS = TEXTS | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
BOUNDS = st.none() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)


@given(TEXTS, SCALARS)
def test_equals_is_read_as_it_was_written(field: str, value: Scalar) -> None:
    assert parse(f"{json.dumps(field)}={json.dumps(value)}") == Equals(field, value)


@given(TEXTS, st.lists(SCALARS, min_size=1))
def test_any_of_is_read_as_it_was_written(field: str, values: list[Scalar]) -> None:
    assert parse(f"{json.dumps(field)} in {', '.join(map(json.dumps, values))}") == AnyOf(field, tuple(values))


@given(TEXTS, BOUNDS, BOUNDS, st.booleans(), st.booleans())
def test_between_is_read_as_it_was_written(
    field: str, lower: float | None, upper: float | None, or_equal: bool, and_equal: bool
) -> None:
    if lower is None and upper is None:
        return
    least, most = ("<=" if or_equal else "<"), ("<=" if and_equal else "<")
    written = "" if lower is None else f"{json.dumps(lower)}{least}"
    written += json.dumps(field)
    written += "" if upper is None else f"{most}{json.dumps(upper)}"
    assert parse(written) == Between(
        field,
        at_least=lower if or_equal else None,
        above=None if or_equal else lower,
        at_most=upper if and_equal else None,
        below=None if and_equal else upper,
    )


@given(st.text())
def test_whatever_is_written_is_a_condition_or_a_config_error(text: str) -> None:
    try:
        condition = parse(text)
    except ConfigError:
        return
    assert isinstance(condition, Equals | AnyOf | Between)


def values_of(condition: Condition) -> list[object]:
    match condition:
        case Equals():
            return [condition.value]
        case AnyOf():
            return list(condition.values)
        case Between():
            return [condition.at_least, condition.above, condition.at_most, condition.below]
