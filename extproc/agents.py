"""Registered agents and the prices of calls as the directory publishes them, and why an agent may
not act. Knows no store.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extproc.refusal import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An agent with an identity of its own; `price_nanos` is what a call of it costs, None where
    nobody set a price.
    """

    name: str
    team: str
    owner: str
    status: str
    price_nanos: int | None = None


def agent_from_document(document: Mapping[str, Any]) -> Agent:
    """The agent in a directory document; raises KeyError or ValueError where it is not one."""
    return Agent(
        name=str(document["name"]),
        team=str(document["team"]),
        owner=str(document["owner"]),
        status=str(document["status"]),
        price_nanos=price_from_document(document),
    )


def price_from_document(document: Mapping[str, Any]) -> int | None:
    """What a call costs in nanodollars; raises KeyError or ValueError where it is not a price."""
    price = document["price_nanos"]
    if price is not None and (type(price) is not int or price < 0):
        raise ValueError("price_nanos is not a number of nanodollars")
    return price


def refuse_agent(agent: Agent | None) -> Refusal | None:
    """Why this agent may neither call nor be called; None where it may, as one may that is not
    registered.
    """
    if agent is None or agent.status == "active":
        return None
    says = f"The agent {agent.name!r} is {agent.status}; "
    says += f"ask its owner, {agent.owner} of the team {agent.team}"
    says += ", to resume it." if agent.status == "suspended" else ", for the one that follows it."
    return Refusal(status=403, code=f"agent_{agent.status}", message=says)
