"""Every setting, error and option is documented, and nothing is that does not exist."""

import inspect
import re

import scythe
from scythe import BaseExperiment, ExperimentRegistry, errors
from scythe.registry import HATCHET_OPTIONS
from scythe.settings import TimeoutSettings
from tests.docs.pages import DOCS, ROOT

SOURCES = sorted((ROOT / "src" / "scythe").rglob("*.py"))
VARIABLE = re.compile(r"\bSCYTHE_[A-Z0-9]+(?:_[A-Z0-9]+)*\b(?!_)")
BUILT = re.compile(r"\b(SCYTHE_[A-Z0-9_]*_)\{")
"""A variable whose name is put together when it is read."""


def page_text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_every_environment_variable_is_on_the_settings_page_and_no_other() -> None:
    text = "\n".join(source.read_text(encoding="utf-8") for source in SOURCES)
    assert set(BUILT.findall(text)) == {"SCYTHE_TIMEOUT_"}, "tell this test which names are built"
    read = set(VARIABLE.findall(text)) | {f"SCYTHE_TIMEOUT_{name}" for name in TimeoutSettings.model_fields}

    assert set(VARIABLE.findall(page_text("settings.md"))) == read


def test_no_variable_but_scythes_own_is_read() -> None:
    pattern = re.compile(r"(?:_variable\(|environ(?:\.get\(|\[)|getenv\()\s*f?\"(?!SCYTHE_)[\w{}]+\"(?!\] = )")
    assert not [source for source in SOURCES if pattern.search(source.read_text(encoding="utf-8"))]


def test_no_page_names_a_variable_that_does_not_exist() -> None:
    known = set(VARIABLE.findall(page_text("settings.md")))
    for page in [ROOT / "README.md", *DOCS.glob("*.md")]:
        assert set(VARIABLE.findall(page.read_text(encoding="utf-8"))) <= known, page


def test_every_error_is_on_the_errors_page() -> None:
    classes = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert classes == set(re.findall(r"^### `(\w+)`$", page_text("errors.md"), re.MULTILINE))


def test_every_option_of_an_experiment_is_on_the_page_about_running() -> None:
    parameters = inspect.signature(ExperimentRegistry.Register).parameters.values()
    options = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    documented = set(re.findall(r"^\| `(\w+)`", page_text("running.md"), re.MULTILINE))
    assert options <= documented
    assert documented & HATCHET_OPTIONS == set()


def test_every_argument_of_allocate_is_on_the_page_about_allocating() -> None:
    arguments = set(inspect.signature(BaseExperiment.allocate).parameters) - {"self"}
    assert arguments <= set(re.findall(r"^\| `(\w+)`", page_text("allocating.md"), re.MULTILINE))


def test_every_public_name_is_somewhere_in_the_documentation() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    assert not [name for name in scythe.__all__ if not re.search(rf"\b{name}\b", text)]
