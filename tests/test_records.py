"""The records' decorator against the standard one: the same behaviour, whatever the class."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import FrozenInstanceError, field
from typing import Any

import pytest

from melange_sky import records

MAKERS = {"ours": records.dataclass, "standard": dataclasses.dataclass}


def make(maker: Any, **options: Any) -> Any:
    @maker(**options)
    class Shape:
        width: float
        names: tuple[str, ...] = field(default_factory=tuple)
        marks: list[str] = field(default_factory=list, hash=False)
        unit: str = "m"
        note: str = field(default="", compare=False, repr=False)
        area: float = field(init=False, default=0.0)

        def double(self) -> float:
            return 2 * self.width

    return Shape


OPTIONS: list[dict[str, Any]] = [
    {"frozen": True, "slots": True, "kw_only": True},
    {"frozen": True, "slots": True},
    {"frozen": True, "slots": True, "kw_only": True, "eq": False},
    {"slots": True, "kw_only": True},
    {"slots": True, "eq": False},
    {},
]


def behaviour(cls: Any) -> dict[str, Any]:
    """What can be seen of a class: its records, their equality, and what it refuses."""

    def tried(call: Any) -> Any:
        try:
            return call()
        except (TypeError, FrozenInstanceError, AttributeError) as error:
            return type(error).__name__

    def refused(call: Any) -> bool:
        return tried(call) in {"TypeError", "FrozenInstanceError", "AttributeError"}

    def assign(name: str) -> str:
        record = cls(width=1.0)
        setattr(record, name, 2.0)
        return repr(record)

    one, same, other = cls(width=1.0, note="a"), cls(width=1.0, note="b"), cls(width=2.0)
    return {
        "shown": repr(one),
        "equal": (one == same, one == other, one == 1.0, one != same),
        "hash": tried(lambda: hash(one) == hash(same)),
        "own list": one.marks is not same.marks,
        "missing": tried(cls),
        "unknown": tried(lambda: cls(width=1.0, colour=1)),
        "by place": tried(lambda: repr(cls(1.0))),
        "not in init": tried(lambda: cls(width=1.0, area=2.0)),
        "assigned": tried(lambda: assign("width")),
        "new name": refused(lambda: assign("colour")),
        "deleted": tried(lambda: delattr(one, "width")),
        "replaced": repr(dataclasses.replace(other, unit="km")),
        "fields": [(f.name, f.kw_only, f.init) for f in dataclasses.fields(cls)],
        "dictionary": dataclasses.asdict(other),
        "copied": repr(copy.deepcopy(other)),
        "method": other.double(),
        "match": cls.__match_args__,
        "slots": getattr(cls, "__slots__", None),
    }  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_record_behaves_as_a_standard_dataclass(options: dict[str, Any]) -> None:
    ours, standard = (make(maker, **options) for maker in MAKERS.values())
    seen = behaviour(ours)
    expected = behaviour(standard)
    assert seen == expected
    # compiled by now: the same parameters in the same places
    parameters = [list(inspect.signature(cls.__init__).parameters) for cls in (ours, standard)]
    assert parameters[0] == parameters[1]


@records.dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base."""

    first: int
    second: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.first < 0:
            raise ValueError("below zero")


@records.dataclass(frozen=True, slots=True, kw_only=True)
class Derived(Base):
    third: str = "x"

    def __repr__(self) -> str:
        return "own"


def test_inheritance_post_init_pickling_and_own_methods() -> None:
    record = Derived(first=1, third="y")
    assert (record.first, record.second, record.third) == (1, (), "y")
    assert repr(record) == "own" and repr(Base(first=1)) == "Base(first=1, second=())"
    assert pickle.loads(pickle.dumps(record)) == record == copy.copy(record)
    assert record != Base(first=1) and len({record, Derived(first=1, third="y")}) == 1
    with pytest.raises(ValueError, match="below zero"):
        Derived(first=-1)
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'third'"):
        record.third = "z"  # type: ignore[misc]
    with pytest.raises(TypeError, match=r"Base.__init__\(\) missing 1 required keyword-only"):
        Base()  # type: ignore[call-arg]


def test_one_field_and_none() -> None:
    @records.dataclass(frozen=True, slots=True)
    class One:
        value: float

    @records.dataclass(frozen=True, slots=True)
    class Empty:
        pass

    assert One(1.0) == One(1.0) != One(2.0) and hash(One(1.0)) == hash(One(1.0))
    assert Empty() == Empty() and repr(Empty()).endswith("Empty()")
    assert One(float("nan")) != One(float("nan"))


def test_order_is_kept() -> None:
    @records.dataclass(frozen=True, slots=True, kw_only=True, order=True)
    class Ordered:
        value: int

    assert sorted([Ordered(value=2), Ordered(value=1)]) == [Ordered(value=1), Ordered(value=2)]
