"""The set-up: the Makefile and its help, the command line's weight, licence, citation, and what the repository must not hold."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, flags=re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
APACHE_2_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # of the text as apache.org gives it
HEAVY = {"torch", "torchvision", "monai", "lightning_fabric", "mlflow", "pandas", "matplotlib", "sklearn", "skimage"}

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make as from a user's shell, not as a part of the `make test` that may have started us."""
    inherited = {"MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "MEDSEG_DATA", "VENV", "CONSTRAINTS"}
    env = {key: value for key, value in os.environ.items() if key not in inherited}
    return subprocess.run(["make", *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with an empty virtual environment in which nothing was installed yet."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/pip").touch()
    return tmp_path


@needs_make
def test_help_lists_every_target_with_a_line() -> None:
    listed = dict(re.findall(r"^  ([a-z-]+) +(\S.*)$", make("help").stdout, flags=re.MULTILINE))
    assert sorted(listed) == sorted(TARGETS)
    assert make().stdout == make("help").stdout


def test_every_target_is_phony() -> None:
    phony = re.search(r"^\.PHONY:((?:.*\\\n)*.*)", MAKEFILE, flags=re.MULTILINE)
    assert phony and sorted(phony[1].replace("\\", "").split()) == sorted(TARGETS)


@needs_make
@pytest.mark.parametrize("target", ["demo", "test"])
def test_a_target_installs_on_the_first_call_only(checkout: Path, target: str) -> None:
    assert "pip install -c constraints.txt -e '.[dev]'" in make("-n", target, cwd=checkout).stdout
    (checkout / ".venv/.installed").touch()
    assert "pip install" not in make("-n", target, cwd=checkout).stdout


@needs_make
def test_a_changed_dependency_installs_again(checkout: Path) -> None:
    (checkout / ".venv/.installed").touch()
    later = (checkout / ".venv/.installed").stat().st_mtime + 10
    os.utime(checkout / "pyproject.toml", (later, later))
    assert "pip install" in make("-n", "test", cwd=checkout).stdout


@needs_make
def test_constraints_may_be_left_out(checkout: Path) -> None:
    assert "pip install  -e '.[dev]'" in make("-n", "setup", "CONSTRAINTS=", cwd=checkout).stdout


@needs_make
def test_a_missing_virtual_environment_is_created(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    assert "-m venv .venv" in make("-n", "test", cwd=checkout).stdout


@needs_make
def test_an_old_python_is_refused(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    refused = make("test", "PYTHON=false", cwd=checkout)
    assert refused.returncode != 0
    assert "medseg needs Python 3.11 or newer, but 'false' is not: make test PYTHON=python3.11" in refused.stderr


@needs_make
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment"], "EXP is missing, for example: make experiment EXP=tongue/unet DATA_ROOT=/data/tongue"),
        (
            ["train", "EXP=a/b"],
            "DATA_ROOT is missing (the folder of the images; or set MEDSEG_DATA), for example: make train",
        ),
        (["evaluate"], "RUN is missing, for example: make evaluate RUN=runs/<id> DATA_ROOT=/data/tongue"),
        (["predict", "RUN=runs/a"], "IMAGES is missing, for example: make predict RUN=runs/<id> IMAGES=photos OUT=masks"),
        (["compare"], 'RUNS is missing, for example: make compare RUNS="runs/<id> runs/<id>"'),
    ],
)
def test_a_missing_argument_is_named_with_an_example(checkout: Path, arguments: list[str], message: str) -> None:
    refused = make(*arguments, cwd=checkout)
    assert refused.returncode != 0
    assert message in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert refused.stdout == ""


@needs_make
def test_phantom_experiments_find_the_phantom(checkout: Path) -> None:
    assert '--data-root "data/phantom"' in make("-n", "experiment", "EXP=phantom/unet", cwd=checkout).stdout


def test_pages_name_only_targets_that_exist() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        named = set(re.findall(r"(?:^|`|\$ )make ([a-z][a-z-]*)", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert named <= set(TARGETS), f"{page.name} names targets that do not exist"


def test_ci_runs_the_tests() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text() and script.read_text().rstrip().endswith("make test")


@pytest.mark.parametrize("entry", [["-m", "medseg"], ["-c", "from medseg.cli import main; main()"]])
def test_both_entries_answer_help(entry: list[str]) -> None:
    answer = python(*entry, "--help")
    assert answer.returncode == 0, answer.stderr
    assert "train" in answer.stdout and "manifest" in answer.stdout


def test_the_console_script_is_the_command_line() -> None:
    assert PROJECT["scripts"] == {"medseg": "medseg.cli:main"}


def test_the_command_line_imports_nothing_heavy() -> None:
    loaded = python("-c", "import sys, medseg.cli; print(*{name.partition('.')[0] for name in sys.modules})")
    assert loaded.returncode == 0, loaded.stderr
    assert not HEAVY & set(loaded.stdout.split())


@pytest.mark.parametrize("verb", [("train", "experiments/phantom/unet.yaml", "train.epocs=1"), ("cv", "nowhere.yaml"), ("plan", "nowhere")])
def test_a_mistake_that_needs_no_torch_is_told_without_it(verb: tuple[str, ...]) -> None:
    told = python("-X", "importtime", "-m", "medseg", *verb)
    assert told.returncode == 2 and not re.search(r"\| +torch$", told.stderr, re.MULTILINE)
    assert re.search(r"^error: .*(no such key; did you mean epochs|no such file)", told.stderr, re.MULTILINE)


def test_every_package_has_an_init() -> None:
    folders = {path.parent for path in (ROOT / "medseg").rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_every_dependency_is_pinned() -> None:
    pins = re.findall(r"^([\w.-]+)==[\w.]+$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=!~\[; ]", requirement)[0] for requirement in wanted}
    assert {_normal(name) for name in names} <= {_normal(name) for name in pins}
    assert len(pins) == len({_normal(name) for name in pins})


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Copyright 2026 medseg contributors" in text
    template = text.replace("Copyright 2026 medseg contributors", "Copyright [yyyy] [name of copyright owner]")
    assert hashlib.sha256(template.encode()).hexdigest() == APACHE_2_SHA256
    assert PROJECT["license"] == "Apache-2.0"


def test_the_citation_fits_the_project() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["cff-version"], citation["license"]) == ("1.2.0", PROJECT["license"])
    assert (citation["title"], citation["version"]) == (PROJECT["name"], PROJECT["version"])


def test_the_changelog_has_an_unreleased_section() -> None:
    assert "## [Unreleased]\n\n### Added\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_file_names_a_package_index() -> None:
    """Where packages come from is the machine's own setting."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    words = [b"pypi" + b".org", b"python" + b"hosted", b"download." + b"pytorch", b"index" + b"-url", b"find" + b"-links"]
    files = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    named = [str(path) for path in files if path.is_file() and any(word in path.read_bytes() for word in words)]
    assert named == []
