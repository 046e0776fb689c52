"""What all contract kits share: a rule can be waived, by name and with a reason, and never redefined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest


class Contract:
    """Base of the kits. A kit's tests are named `test_RULE_...`; whoever is held to it subclasses the kit."""

    waived: ClassVar[Mapping[str, str]] = {}
    """Reasons by rule ("S7"), or by the name of one test without its `test_`. The run prints them."""

    def __init_subclass__(cls) -> None:
        rules = {name for kit in cls.__mro__[1:] for name in vars(kit) if name.startswith("test_")}
        if not rules:
            return  # a kit, not one that is held to it
        if redefined := sorted(rules & vars(cls).keys()):
            raise TypeError(f"{cls.__name__} redefines {redefined}; waive the rule instead, with a reason")
        names = {name.removeprefix("test_") for name in rules}
        if unknown := sorted(set(cls.waived) - names - {name.split("_")[0] for name in names}):
            raise TypeError(f"{cls.__name__} waives {unknown}, which are not rules of the contract")

    @pytest.fixture(autouse=True)
    def _waive(self, request: pytest.FixtureRequest) -> None:
        name = request.node.originalname.removeprefix("test_")
        for waived in (name, name.split("_")[0]):
            if reason := self.waived.get(waived):
                pytest.skip(f"{waived} waived: {reason}")
