"""The toy world's answers in another tone."""

from tasks.worlds.toy_rules import OPENINGS


def toy_openings(text: str) -> list[str]:
    """The same answer behind each of the three opening lines, whatever its own was: warm, formal, playful.

    Against `toy_cycle` these contain the best response to a policy as far as the tone matters.
    """
    line = next((o for o in OPENINGS.values() if text.startswith(o)), "")
    rest = text.removeprefix(line).strip()
    return [f"{opening} {rest}".strip() for opening in OPENINGS.values()]
