"""The settings that files keep of what they were made of and with, compared with those of now."""

from collections.abc import Mapping

# What a file is made of: digests, which say nothing to a reader
MADE_OF = {"points": "other networks", "images": "other images"}
# Entries that older files lack because there was no such flag; all others that they lack are not compared.
WITHOUT = {"image_size": None, "moments": None, "pretrained": False, "init_linear_off": False, "repair": False}
TOLD = {"trained", "sources", "made"}  # what is kept to be told, and decides nothing
# And what was done otherwise before: planes reached twice as far, correlations along curves were on other images
WITHOUT |= {"height": "turning point", "measured_on": "test images"}


def unlike(before: Mapping[str, object], now: Mapping[str, object]) -> str | None:
    """How a file made with the settings `before` is not what one of `now` would be, as "was made with …"; or None."""
    if not before:
        return "does not say of what and how it was made"
    before = {**WITHOUT, **before}
    different = [name for name, value in now.items() if name in before.keys() - TOLD and before[name] != value]
    if "images" in different and "num_classes" in different:
        different.remove("num_classes")
    made_of = [MADE_OF[name] for name in different if name in MADE_OF]
    made_with = []
    for name in different:
        made_with += [] if name in MADE_OF else _words(name, before[name], now[name])
    parts = [f"of {' and '.join(made_of)}" if made_of else "", f"with {', '.join(made_with)}" if made_with else ""]
    return f"was made {', '.join(filter(None, parts))}" if different else None


def _words(name: str, before: object, now: object) -> list[str]:
    if name == "ends":
        return ["other networks at its ends"]
    if name == "attack" and isinstance(before, list) and isinstance(now, list) and len(before) == len(now) == 3:
        parts = zip(("epsilon", "attack_step", "attack_steps"), before, now, strict=True)
        return [_change(part, old, new) for part, old, new in parts if old != new]
    return [_change(name, before, now)]


def _change(name: str, before: object, now: object) -> str:
    old, new = ("none" if value is None else value for value in (before, now))
    return f"{name} {old} (now {new})"
