"""The file of a template: the user's, or the one that belongs to a mode."""

from pathlib import Path

from tasks.contract import SpecError


def template_file(named: str | None, own: Path) -> Path:
    """The user's file, relative to the folder of the wiring, or our own. Raises SpecError where that is no file."""
    if named is None:
        return own
    file = Path(named).expanduser()
    if not file.is_file():
        raise SpecError(f"`template` = {named!r} is no file; it must be a template in Jinja's language, or left out")
    return file.absolute()


def template_identity(named: str | None, base: Path) -> dict[str, str | Path]:
    """What `identity` returns of the user's template: its file, which counts by its content."""
    if named is None:
        return {}
    return {"template": template_file(str(base / Path(named).expanduser()), base)}
