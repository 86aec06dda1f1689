"""What a search is over: fixed settings and searched ones, checked before anything runs."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geoembed.config import check_setting, typed_setting
from geoembed.errors import DomainError, UnknownNameError

__all__ = ["Space", "distribution"]


@dataclass(frozen=True)
class Space:
    """Fixed settings, and searched ones: a list of choices or a range {low, high, step, log} each."""

    settings: dict[str, Any]
    search: dict[str, Any]

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any]) -> "Space":
        """A space from the tables "settings" and "search", its values checked one by one.

        Raises `UnknownNameError` for names and choices that `TrainConfig` does not know, `DomainError` for values of
        the wrong type or out of bounds. Values that are wrong only together are found when a trial draws them.
        """
        for name, table in tables.items():
            if name not in ("settings", "search"):
                raise UnknownNameError("table", name, ("settings", "search"))
            if not isinstance(table, Mapping):
                raise DomainError(f"{name} must be a table, got {table!r}")
        settings, searched = tables.get("settings", {}), tables.get("search", {})
        if not searched:
            raise DomainError("nothing to search: the table [search] needs an entry such as dim = [10, 20, 40]")
        for name in searched:
            if name == "data" or name in settings:
                why = "all trials have the same graph" if name == "data" else "it is fixed in [settings]"
                raise DomainError(f"{name} cannot be searched: {why}")
        return cls(
            {name: check_setting(name, value) for name, value in settings.items()},
            {name: _checked_entry(name, entry) for name, entry in searched.items()},
        )


def _checked_entry(name: str, entry: Any) -> Any:
    """An entry of [search] with its values checked one by one."""
    if isinstance(entry, list | tuple):
        values = [check_setting(name, value) for value in entry]
        if not values or any(value in values[:i] for i, value in enumerate(values)):
            raise DomainError(f"{name}: expected a list of different values, got {entry!r}")
        return values
    if not isinstance(entry, Mapping):
        raise DomainError(f"{name}: expected a list of values or {{low = ..., high = ...}}, got {entry!r}")
    for key in entry:
        if key not in ("low", "high", "step", "log"):
            raise UnknownNameError(f"key of {name}", key, ("low", "high", "step", "log"))
    if not {"low", "high"} <= set(entry) or not isinstance(entry.get("log", False), bool):
        raise DomainError(f"{name}: a range has low and high, and perhaps step, or log = true; got {dict(entry)}")
    low, high = check_setting(name, entry["low"]), check_setting(name, entry["high"])
    if not isinstance(low, int | float) or isinstance(low, bool):
        raise DomainError(f"{name} has no range; list its values: {name} = [...]")
    step = {"step": typed_setting(name, entry["step"])} if "step" in entry else {}
    return {"low": low, "high": high, **step, "log": entry.get("log", False)}


def distribution(optuna: Any, name: str, entry: Any) -> Any:
    kinds = optuna.distributions
    if isinstance(entry, list):
        return kinds.CategoricalDistribution(entry)
    kind = kinds.IntDistribution if isinstance(entry["low"], int) else kinds.FloatDistribution
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a step that misses high
            return kind(**entry)
    except (ValueError, UserWarning) as error:
        raise DomainError(f"{name}: {error}") from None
