"""What the clients say: other words in each request, the same ones in each run."""

from __future__ import annotations

OPENINGS = ("Tell me", "Explain to me", "Write a story", "Give advice", "Make a poem", "Talk")
PEOPLE = ("baker", "sailor", "teacher", "doctor", "farmer", "painter", "judge", "pilot")
TOWNS = ("Lisbon", "Cairo", "Oslo", "Lima", "Kyoto", "Dublin", "Prague")
THINGS = ("rain", "bridges", "honey", "clocks", "horses", "letters", "stars", "bread", "winter")
SYSTEM_RULES = 33


def user(number: int) -> str:
    """Some 30 tokens; no two numbers below some thousands give the same text."""
    person, town = PEOPLE[number % len(PEOPLE)], TOWNS[number % len(TOWNS)]
    thing = THINGS[number % len(THINGS)]
    return (
        f"{OPENINGS[number % len(OPENINGS)]} about {thing}, as a {person} from {town} would on "
        f"day {number} of a long journey. Do not be too brief, and stay friendly."
    )


def system() -> str:
    """A system prompt of some 1000 tokens."""
    rules = (
        f"Rule {number}: when a {PEOPLE[number % len(PEOPLE)]} from {TOWNS[number % len(TOWNS)]} "
        f"asks about {THINGS[number % len(THINGS)]}, answer politely, name your sources, and never "
        "promise what you cannot do."
        for number in range(1, SYSTEM_RULES + 1)
    )
    return " ".join(("You are the assistant of a large shop.", *rules))
