"""A consumer group of the in-memory broker: the classic protocol with cooperative assignment.

As on a real broker a rebalance has a barrier: the generation grows when every member has joined
again, or when the rebalance time-out has passed. Members keep what they own while others join; a
partition goes to another member only after its owner has given it back. What is simpler: the
assignment is computed here and not by a member, in the moment in which the barrier opens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from stream.kafka.positions import Partition
from tests.simulation.world import World

INITIAL_DELAY_S: Final = 0.03
"""How long the first rebalance of an empty group waits for more members."""

REBALANCE_TIMEOUT_S: Final = 2.0
"""A member that has not joined again by then is out."""


class Assignment(NamedTuple):
    """The outcome of a rebalance for one member."""

    generation: int
    partitions: frozenset[Partition]


Joined = Callable[[Assignment], None]


@dataclass(slots=True)
class Member:
    """One member. owned: what it said it owns. joined: called once it is assigned, None where it
    is not waiting to be."""

    expires_at: float
    session_s: float
    topics: tuple[str, ...]
    owned: frozenset[Partition]
    joined: Joined | None = None


@dataclass(slots=True)
class Group:
    """The members and their generation. partitions_of: how many a topic has."""

    world: World
    partitions_of: Callable[[str], int]
    generation: int = 0
    members: dict[str, Member] = field(default_factory=dict)
    rebalancing: bool = False
    _round: int = 0
    _named: int = 0

    # -- requests of members ----------------------------------------------------------------------

    def knows(self, member_id: str) -> bool:
        """Whether it is a member: one that is not must let go of all it owns before it joins."""
        return member_id in self.members

    def join(
        self,
        member_id: str,
        topics: tuple[str, ...],
        owned: frozenset[Partition],
        session_s: float,
        joined: Joined,
    ) -> str:
        """Join, or join again; the member's id. joined: called when the rebalance is over."""
        if member_id not in self.members:
            self._named += 1
            member_id = f"member-{self._named}"
        was_empty = not self.members
        expires_at = self.world.now + session_s
        self.members[member_id] = Member(expires_at, session_s, topics, owned, joined)
        self._begin_rebalance(INITIAL_DELAY_S if was_empty else REBALANCE_TIMEOUT_S)
        if not was_empty:
            self._end_if_all_joined()
        self.world.after(session_s, self._expire)
        return member_id

    def heartbeat(self, member_id: str, generation: int) -> str:
        """Show that the member lives; the name of an error, "" where there is none."""
        if (problem := self.problem_of(member_id, generation)) != "":
            return problem
        member = self.members[member_id]
        member.expires_at = self.world.now + member.session_s
        self.world.after(member.session_s, self._expire)
        return "REBALANCE_IN_PROGRESS" if self.rebalancing and member.joined is None else ""

    def problem_of(self, member_id: str, generation: int) -> str:
        """Why a request of this member and generation is refused, "" where it is not.

        A transactional commit is checked for nothing more: neither for whether the member owns the
        partition, nor for whether a rebalance has begun.
        """
        if member_id not in self.members:
            return "UNKNOWN_MEMBER_ID"
        return "" if generation == self.generation else "ILLEGAL_GENERATION"

    def leave(self, member_id: str) -> None:
        """Leave the group; others share what the member owned."""
        if self.members.pop(member_id, None) is not None:
            self._after_removal()

    # -- rebalances -------------------------------------------------------------------------------

    def _begin_rebalance(self, timeout_s: float) -> None:
        if not self.rebalancing:
            self.rebalancing = True
            self._round += 1
            this = self._round
            self.world.after(timeout_s, lambda: self._time_out(this))

    def _time_out(self, this: int) -> None:
        if self.rebalancing and self._round == this:
            self.members = {
                name: one for name, one in self.members.items() if one.joined is not None
            }
            self._end()

    def _end_if_all_joined(self) -> None:
        if self.rebalancing and all(one.joined is not None for one in self.members.values()):
            self._end()

    def _end(self) -> None:
        self.rebalancing = False
        self.generation += 1
        self.world.note("group", "generation", self.generation, *self.members)
        shares = cooperative(
            {name: one.owned for name, one in self.members.items()}, self._all_partitions()
        )
        for name, member in self.members.items():
            joined, member.joined = member.joined, None
            member.owned = shares[name]
            member.expires_at = self.world.now + member.session_s
            self.world.after(member.session_s, self._expire)
            assert joined is not None
            joined(Assignment(self.generation, shares[name]))

    def _all_partitions(self) -> list[Partition]:
        topics = {topic for member in self.members.values() for topic in member.topics}
        return [Partition(t, n) for t in sorted(topics) for n in range(self.partitions_of(t))]

    def _expire(self) -> None:
        """Remove members whose session is over. One that waits for a rebalance has no session."""
        now = self.world.now
        gone = [n for n, m in self.members.items() if m.joined is None and m.expires_at <= now]
        for name in gone:
            self.world.note("group", "session over", name)
            del self.members[name]
        if gone:
            self._after_removal()

    def _after_removal(self) -> None:
        if not self.members:
            self.rebalancing = False
            self.generation += 1
            return
        self._begin_rebalance(REBALANCE_TIMEOUT_S)
        self._end_if_all_joined()


def cooperative(
    owned: dict[str, frozenset[Partition]], partitions: list[Partition]
) -> dict[str, frozenset[Partition]]:
    """Shares that differ by one partition at most, moving as few as possible. What must move from
    one member to another is nobody's yet: its owner gives it back first and joins again."""
    if not owned:
        return {}
    least, more = divmod(len(partitions), len(owned))
    left = dict.fromkeys(partitions)
    kept: dict[str, list[Partition]] = {}
    moving: set[Partition] = set()
    names = sorted(owned, key=lambda name: (-len(owned[name]), name))
    for position, name in enumerate(names):
        room = least + (position < more)
        mine = sorted(one for one in owned[name] if one in left)
        kept[name] = mine[:room]
        moving.update(mine[room:])
        for one in mine:
            del left[one]
    free = list(left)
    for position, name in enumerate(names):
        while free and len(kept[name]) < least + (position < more):
            kept[name].append(free.pop(0))
    return {name: frozenset(some) for name, some in kept.items()}
