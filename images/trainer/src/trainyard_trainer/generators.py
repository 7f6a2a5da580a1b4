"""Synthetic data, for use where real data is not available: equal name, rows, seed and date give equal bytes.

The URI is `generator://NAME?rows=N&seed=S`. The seed determines the population (cards, customers, users and
items), which is the same every day. The date determines the events of the day, and shifts their distribution
slowly, so that a model becomes worse over the months. Labels are drawn from a probability, so that even the
best possible model makes errors.
"""

import csv
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date as Date
from typing import TypeAlias
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import numpy.typing as npt

from trainyard_trainer.errors import BadConfig
from trainyard_trainer.lake import Columns

SCHEME = "generator"
CATEGORIES = ("grocery", "fuel", "restaurant", "clothing", "electronics", "travel", "gambling")
CONTRACTS = ("monthly", "yearly", "two_years")

_MAX_ROWS = 5_000_000
_MAX_SEED = 2**31 - 1
_DRIFT_START = Date(2026, 1, 1)
_HOURS = 30 * 24  # period of the transactions of a file
_FRAUD_RATE = 0.02
_CHURN_RATE = 0.25
_DUPLICATES = 0.01  # of the transactions are delivered twice
_MISSING = 0.03  # of the values of a column with missing values

Floats: TypeAlias = npt.NDArray[np.float64]
Random: TypeAlias = np.random.Generator


@dataclass(frozen=True)
class Source:
    """A generator, its number of rows and its seed."""

    name: str
    rows: int
    seed: int

    @classmethod
    def parse(cls, uri: str) -> "Source":
        """Parse `generator://NAME?rows=N&seed=S`; both keys are optional. Raises BadConfig."""
        parts = urlsplit(uri)
        if parts.scheme != SCHEME or parts.netloc not in _GENERATORS or parts.path not in ("", "/"):
            known = ", ".join(f"{SCHEME}://{name}" for name in _GENERATORS)
            raise BadConfig(f"there is no generator {uri!r}; use {known}")
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := given.keys() - {"rows", "seed"}:
            raise BadConfig(f"generator {uri!r}: unknown key {min(unknown)!r}; use rows and seed")
        rows = _whole(uri, "rows", given.get("rows", str(_GENERATORS[parts.netloc][1])), 1, _MAX_ROWS)
        return cls(parts.netloc, rows, _whole(uri, "seed", given.get("seed", "0"), 0, _MAX_SEED))

    def columns(self, date: str) -> Columns:
        """Generate the columns for a date, YYYY-MM-DD."""
        day = Date.fromisoformat(date)
        name = zlib.crc32(self.name.encode())
        population = np.random.default_rng([self.seed, name])
        today = np.random.default_rng([self.seed, name, day.toordinal()])
        years = (day - _DRIFT_START).days / 365
        return _GENERATORS[self.name][0](self.rows, population, today, years)


def to_csv(columns: Columns) -> bytes:
    """Write the columns as CSV; a missing value is an empty cell."""
    cells = [["" if value != value else value for value in column.tolist()] for column in columns.values()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*cells, strict=True))
    return text.getvalue().encode()


def transactions(rows: int, population: Random, today: Random, years: float) -> Columns:
    """Return card transactions of 30 days, 2 % of them fraud, with some duplicates and missing values.

    Fraud is more likely for an amount that is unusual *for that card*, shortly after another transaction, at
    night, far from home, without the card present, and in some categories. Amounts grow by a tenth per year,
    and fraud moves from electronics to travel.
    """
    cards = max(rows // 20, 1)
    usual = population.normal(3.3, 0.7, cards)  # the logarithm of what the card usually pays
    mobility = population.lognormal(1.5, 0.6, cards)  # kilometres

    distinct = rows - round(rows * _DUPLICATES)
    card, hours = _in_bursts(today, today.integers(0, cards, distinct), today.uniform(0, _HOURS, distinct))
    surplus = today.normal(0, 0.8, distinct)
    category = today.choice(len(CATEGORIES), distinct, p=[0.3, 0.15, 0.2, 0.13, 0.1, 0.09, 0.03])
    away = today.random(distinct) < 0.06
    distance = mobility[card] * today.lognormal(0, 0.7, distinct) * np.where(away, 30, 1)
    present = (today.random(distinct) < np.where(category >= 3, 0.5, 0.85)).astype(np.int64)
    hour = (hours % 24).astype(np.int64)

    moved = 0.5 * np.clip(years, -2, 2)
    risk = np.array([-0.8, -0.5, -0.3, 0.2, 1.6 - moved, 0.8 + moved, 1.8])[category]
    logit = 1.9 * surplus + risk + 1.6 * (hour < 6) + 0.9 * np.log1p(distance / 20) - 1.6 * present
    logit += 2.4 * (_since_last(card, hours) < 1.0)
    rate = _FRAUD_RATE * (1 + 0.1 * np.sin(2 * np.pi * years))
    fraud = today.random(distinct) < _probability(2.5 * logit, rate)

    columns: Columns = {
        "transaction_id": np.arange(1, distinct + 1),
        "card_id": card,
        "hours": np.round(hours, 4),
        "amount": _with_missing(today, np.exp(usual[card] + surplus + 0.1 * years).round(2) + 0.01),
        "category": np.array(CATEGORIES)[category],
        "distance_km": _with_missing(today, distance),
        "card_present": present,
        "is_fraud": fraud.astype(np.int64),
    }
    twice = np.sort(np.concatenate([np.arange(distinct), today.integers(0, distinct, rows - distinct)]))
    return {name: values[twice] for name, values in columns.items()}


def customers(rows: int, population: Random, today: Random, years: float) -> Columns:
    """Return customers of a subscription, a quarter of whom leave, with some missing ages.

    A customer is more likely to leave early, with a monthly contract, after calls to the support, and with a
    high charge and little usage. Prices rise by 4 % a year, and the effect of support calls grows.
    """
    contract = population.choice(len(CONTRACTS), rows, p=[0.55, 0.25, 0.2])
    joined = population.exponential(26, rows)
    price = population.normal(55, 18, rows).clip(10, 150)
    age = population.integers(18, 85, rows).astype(np.float64)

    tenure = (joined + 12 * max(years, 0)).clip(0, 240).astype(np.int64)
    charge = (price * 1.04**years).round(2)
    usage = today.gamma(2.5, 12, rows).round(1)
    calls = today.poisson(np.where(today.random(rows) < 0.2, 3.0, 0.6))
    late = today.poisson(0.5, rows)
    logit = np.array([1.2, -0.4, -1.6])[contract] - 0.045 * np.minimum(tenure, 60) + 0.03 * (charge - 55)
    logit += (0.55 + 0.1 * np.clip(years, -2, 2)) * calls + 0.5 * late - 0.04 * usage
    logit += 0.9 * ((usage < 15) & (charge > 60))
    churned = today.random(rows) < _probability(1.3 * logit, _CHURN_RATE)
    return {
        "customer_id": np.arange(1, rows + 1),
        "age": _with_missing(today, age),
        "tenure_months": tenure,
        "contract": np.array(CONTRACTS)[contract],
        "monthly_charge": charge,
        "usage_hours": usage,
        "support_calls": calls,
        "late_payments": late,
        "has_churned": churned.astype(np.int64),
    }


def ratings(rows: int, population: Random, today: Random, years: float) -> Columns:
    """Return ratings of 1 to 5 stars by 400 users for 200 items, few of which are rated often.

    A user likes items with similar latent traits; items and users have a bias each. The users' traits drift:
    after a year, a tenth of each trait comes from its neighbour.
    """
    traits = 3
    users = population.normal(0, 1, (400, traits))
    items = population.normal(0, 1, (200, traits))
    kind, good = population.normal(0, 0.5, 400), population.normal(0, 0.8, 200)
    popular = population.lognormal(0, 0.8, 200)

    users = users + 0.1 * np.clip(years, -2, 2) * np.roll(users, 1, axis=1)
    user = today.integers(0, 400, rows)
    item = today.choice(200, rows, p=popular / popular.sum())
    score = (users[user] * items[item]).sum(axis=1) + kind[user] + good[item] + today.normal(0, 0.7, rows)
    stars = np.digitize(score, [-2.2, -0.9, 0.3, 1.6]) + 1
    return {"rating_id": np.arange(1, rows + 1), "user_id": user, "item_id": item, "rating": stars}


_GENERATORS: dict[str, tuple[Callable[[int, Random, Random, float], Columns], int]] = {
    "transactions": (transactions, 20_000),
    "customers": (customers, 5_000),
    "ratings": (ratings, 20_000),
}
"""Each generator with its default number of rows."""


def _whole(uri: str, key: str, text: str, low: int, high: int) -> int:
    if not text.isdecimal() or not text.isascii() or not low <= int(text[:12]) <= high:
        raise BadConfig(f"generator {uri!r}: {key} is {text!r}; use a whole number from {low} to {high}")
    return int(text)


def _probability(logit: Floats, rate: float) -> Floats:
    """Convert logits to probabilities whose mean is the rate."""
    low, high = -50.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        if (1 / (1 + np.exp(-(logit + middle)))).mean() < rate:
            low = middle
        else:
            high = middle
    return np.asarray(1 / (1 + np.exp(-(logit + low))))


def _in_bursts(
    random: Random, card: npt.NDArray[np.int64], hours: Floats
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Move some transactions shortly after another one of the same card; order all by time."""
    follows = random.random(len(card)) < 0.05
    after = (np.roll(hours, 1) + random.uniform(0, 0.5, len(card))).clip(0, _HOURS)
    card, hours = np.where(follows, np.roll(card, 1), card), np.where(follows, after, hours)
    order = np.argsort(hours, kind="stable")
    return card[order], hours[order]


def _since_last(card: npt.NDArray[np.int64], hours: Floats) -> Floats:
    """Return the hours since the card's previous transaction, for transactions in order of time."""
    order = np.lexsort((hours, card))
    gap = np.diff(hours[order], prepend=-np.inf)
    gap[np.diff(card[order], prepend=-1) != 0] = np.inf
    result = np.empty(len(card))
    result[order] = gap
    return result


def _with_missing(random: Random, values: Floats) -> Floats:
    """Round to cents, and replace some values by NaN."""
    return np.where(random.random(len(values)) < _MISSING, np.nan, values.round(2))
