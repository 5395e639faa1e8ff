"""The project itself: its code is clean, its public names are there, and what it says of itself is true."""

import ast
import graphlib
import subprocess
import sys
import tomllib
from pathlib import Path

import fusehub

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fusehub"


def test_the_code_is_clean() -> None:
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_is_there_and_stays_what_it_is() -> None:
    """Importing a module of the package must not put the module in the place of a function of that name."""
    probe = (
        "import fusehub, pkgutil, importlib, types\n"
        "for module in pkgutil.walk_packages(fusehub.__path__, 'fusehub.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "for name in fusehub.__all__: assert not isinstance(getattr(fusehub, name), types.ModuleType), name\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(fusehub.__all__) == sorted(set(fusehub.__all__))


def test_importing_the_package_imports_nothing_heavy() -> None:
    probe = "import sys, fusehub; print([n for n in ('torch', 'transformers', 'huggingface_hub') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "[]"


def test_requirements_pin_what_the_package_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {text.split(">")[0].split("=")[0].strip() for text in project["dependencies"]}
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    pinned = {line.split("==")[0]: line for line in lines}
    assert needed <= set(pinned)
    assert all("==" in line for line in lines)


def imports() -> dict[str, set[str]]:
    """The files of package and app -> those that each imports, anywhere in it; packages themselves are left out."""
    paths = [path for place in (PACKAGE, ROOT / "space") for path in place.rglob("*.py") if path.name != "__init__.py"]
    modules = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in paths}
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                package = [*name.split(".")[: -node.level], node.module] if node.level else [node.module]
                module = ".".join(filter(None, package))
                found[name] |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
        found[name] &= set(modules)
    return found


def test_no_modules_import_each_other() -> None:
    """Not even late, inside a function: whatever is imported can be read without what imports it."""
    graphlib.TopologicalSorter(imports()).prepare()


def test_lower_floors_do_not_import_higher_ones() -> None:
    """A module imports only modules of floors below its own, or beside it."""
    floors = [
        "errors interrupts holding unfinished cached limits progress"
        " documents reach places replies reports wire yaml_text",
        "hub hub_names tensor_files licences label_names side_files verified devices",
        "model_ref remote adapters refs chat_templates tables conll table_files hub_datasets data_sources pictures"
        " vocabularies tokenizing tasks layers blocks wrappers",
        "labels findings adapter_settings lora checkpoint ties completeness pretrained",
        "literals rendering chats encoding questions language shared_body",
        "methods statistics config_effects configs preprocessing side_documents compat recipe mergekit_forms"
        " columns word_rows sampling data matching inputs trial",
        "planner requirements donors planned_model plan settling questioning solving combining block_by_block engine"
        " adapter_merging merging provenance",
        "answering label_metrics text_metrics predict ensembling keeping comparison evaluation tuning loading finding",
        "markdown merged results front_matter statistics_card usage card_tuning card push publishing",
        "demo_data demo_train",
        "console printing commands cli demo start __main__",
    ]
    floor = {name: number for number, names in enumerate(floors) for name in names.split()}
    wrong = []
    for path in sorted((ROOT / "fusehub").rglob("*.py")):
        parts = path.relative_to(ROOT / "fusehub").with_suffix("").parts
        if parts[0] in ("localhub", "__init__"):
            continue
        assert parts[0] in floor, f"{parts[0]} has no floor"
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] in ("from", "import") and words[1].startswith("fusehub."):
                target = words[1].split(".")[1]
                if target != "localhub" and floor[target] > floor[parts[0]]:
                    wrong.append(f"{path.name}: {line.strip()}")
    assert wrong == []
