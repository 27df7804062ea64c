"""Laws of the package that imports cannot show."""

import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support.harness import ROOT

PACKAGE = ROOT / "reactor"


def test_only_one_room_deletes_streams() -> None:
    """`delete_stream` is called behind a proof, and in no other place."""
    callers = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if ".delete_stream(" in path.read_text()
    }
    assert callers == {"deletion/drain.py", "cli/demo.py"}  # whose job system cleans up after itself


def test_only_the_policy_decides() -> None:
    """No other module creates a Drain."""
    makers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"(?:return|yield|[^=]=) Drain\(", path.read_text())
    }
    assert makers <= {"core/policy.py"}


def test_the_architecture_page_names_every_folder() -> None:
    """And no other."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"^      (\w+)/ ", page, re.MULTILINE))
    there = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert named == there
    for folder, module in re.findall(r"`(\w+)/(\w+\.py)`", page):
        assert (PACKAGE / folder / module).exists() or (ROOT / folder / module).exists(), f"{folder}/{module}"


def test_every_folder_opens_with_its_law() -> None:
    """In one or two sentences."""
    for path in PACKAGE.iterdir():
        if path.is_dir() and path.name not in {"__pycache__", "export"}:
            assert (path / "__init__.py").read_text().startswith('"""'), path.name


def test_what_job_systems_import_is_small() -> None:
    """A Django process that publishes imports NATS, and nothing of the worker."""
    code = "import sys, reactor.client; print(*(name for name in sys.modules if name.startswith('reactor')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)  # noqa: S603
    modules = set(done.stdout.split())
    rooms = {name.split(".")[1] for name in modules if "." in name}
    assert rooms <= {"client", "config", "core", "jetstream", "operate"}
    assert len(modules) < 30, sorted(modules)


def test_the_scripts_of_the_page_import_in_no_circle() -> None:
    """They share values through state.js instead."""
    scripts = {path.name: path.read_text() for path in (PACKAGE / "web" / "page").glob("*.js")}
    imports = {name: re.findall(r'from "\./(\w+\.js)"', text) for name, text in scripts.items()}
    assert len(list(TopologicalSorter(imports).static_order())) == len(scripts)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_link_leads_somewhere(page: Path) -> None:
    """To an existing file and heading."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def test_the_pages_make_a_site(tmp_path: Path) -> None:
    """Without a warning, so no page is missing, and no list is read as a paragraph."""
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-f", ".mkdocs.yml", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
    assert (done.returncode, done.stderr) == (0, "")
    for page in (ROOT / "docs").glob("*.md"):
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        made = tmp_path / ("" if page.stem == "index" else page.stem) / "index.html"
        items = re.search(r'<div role="main".*?<footer>', made.read_text(), re.DOTALL)
        assert items
        assert items[0].count("<li") - items[0].count('<li class="') == len(
            re.findall(r"^ *(?:\*|\d+\.) ", text, re.MULTILINE)
        ), page.name


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading)).strip().lower() for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def test_every_page_is_named_in_the_readme() -> None:
    """So that it can be found."""
    readme = PAGES[0].read_text()
    assert [page.name for page in PAGES[1:] if f"docs/{page.name}" not in readme] == ["index.md"]  # the site's
