"""Checks of the package's architecture, on the source text of its modules."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOMS = (
    *(
        "declare",
        "remote",
        "records",
        "render",
        "placement",
        "facts",
        "engine",
        "lints",
        "adopt",
        "items",
        "checks",
        "survey",
        "commands",
    ),
)
"""Subpackages of llamarig, called rooms. A room imports only from itself and from rooms before it."""

IMPURE = {
    *("pyinfra", "pyinfra_cli", "gevent", "paramiko", "huggingface_hub", "hf_transfer"),
    *("http", "urllib", "socket", "ssl", "ftplib", "asyncio", "requests", "httpx", "aiohttp", "subprocess"),
    *("time", "datetime", "random", "secrets", "uuid"),
}
"""Modules that reach outside the process, or whose results differ from call to call."""

MUTATING = {
    *("append", "add", "update", "setdefault", "pop", "popitem", "clear", "extend", "insert", "remove", "discard"),
    *("appendleft", "popleft", "sort", "reverse"),
}

FORBIDDEN_OF_OURS = ("llamarig.engine.run", "llamarig.engine.refuse", "llamarig.engine.converge")

CACHES = {"cache", "lru_cache", "cached"}


def module_name(path: Path, root: Path) -> str:
    """The dotted name of a source file, such as ``llamarig.items.plans``; ``__init__.py`` has its package's name."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, package: str = "") -> set[str]:
    """Dotted names of everything that a source imports, including imports within functions.

    :param package: the package that contains the source, for relative imports
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Map each module to the modules of ``sources`` that it imports."""
    found = {}
    for name, source in sources.items():
        package = name if any(other.startswith(f"{name}.") for other in sources) else name.rpartition(".")[0]
        targets = imports(source, package) & sources.keys()
        # `from a import b` is found as a and a.b; if b is a module, the import of a itself does not count.
        found[name] = {target for target in targets if not any(other.startswith(f"{target}.") for other in targets)} - {
            name
        }
    return found


def cycles(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of modules that import each other, by Tarjan's strongly connected components."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in edges.get(module, ()):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in edges:
        if module not in index:
            visit(module)
    return found


def room(module: str) -> str:
    """The room of a module: ``items`` for ``llamarig.items.plans``; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def arrows_up(edges: Mapping[str, Iterable[str]]) -> list[str]:
    """Imports from a later room, as "module -> imported module"."""
    order = {name: number for number, name in enumerate(ROOMS)}
    return [
        f"{module} -> {target}"
        for module, targets in sorted(edges.items())
        for target in sorted(targets)
        if room(module) in order and room(target) in order and order[room(target)] > order[room(module)]
    ]


def impure_imports(source: str) -> set[str]:
    """Imported modules that reach outside the process, or differ from call to call."""
    return {module for module in imports(source) if module.split(".")[0] in IMPURE}


def opens_files(source: str) -> set[str]:
    """Calls that read or write files."""
    files = {"open", "read_text", "write_text", "read_bytes", "write_bytes", "mkdir", "unlink", "touch"}
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {found for call in calls if (found := _called(call)) in files}


def prints(source: str) -> list[str]:
    """Calls that put text on the screen, with their lines: of a host's log, pyinfra's logger, click, or `print`."""
    levels = {"debug", "info", "warning", "error", "critical", "exception"}
    methods = {"host": {"log", "log_styled"}, "logger": levels, "click": {"echo", "secho"}}
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = getattr(node.func.value, "id", "")
            if node.func.attr in methods.get(name, ()):
                found.append(f"line {node.lineno}: {name}.{node.func.attr}")
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            found.append(f"line {node.lineno}: print")
    return found


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


@dataclass
class Module:
    """A module's functions, classes and imported names."""

    name: str
    functions: dict[str, ast.AST] = field(default_factory=dict)
    """Function, or ``Class.method`` -> its definition."""
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)
    """Local name -> dotted name of the imported object."""

    @classmethod
    def parse(cls, name: str, source: str) -> Module:
        module = cls(name)
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef):
                module.functions[node.name] = node
            elif isinstance(node, ast.ClassDef):
                module.classes[node.name] = node
                for each in node.body:
                    if isinstance(each, ast.FunctionDef):
                        module.functions[f"{node.name}.{each.name}"] = each
            elif isinstance(node, ast.Import):
                module.imported |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                module.imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        return module


def impure_in_comparisons(sources: Mapping[str, str]) -> list[str]:
    """Impure names that an item's ``differences`` uses, directly or through functions and methods of ``sources``.

    A fact class that is passed to ``seen.get`` or ``query`` is only a key and does not count.
    """
    modules = {name: Module.parse(name, source) for name, source in sources.items()}
    found = []
    for name, module in modules.items():
        for function in module.functions:
            if function.endswith(".differences"):
                reached = _reached(modules, name, function)
                found += [f"{name}.{function}: {where} uses {what}" for where, what in reached]
    return sorted(set(found))


def _reached(modules: Mapping[str, Module], name: str, function: str) -> Iterator[tuple[str, str]]:
    todo, done = [(name, function)], set[tuple[str, str]]()
    while todo:
        here = todo.pop()
        if here in done or here[0] not in modules or here[1] not in modules[here[0]].functions:
            continue
        done.add(here)
        module, owner = modules[here[0]], here[1].rpartition(".")[0]
        definition = module.functions[here[1]]
        keys = _fact_keys(definition)
        for node in ast.walk(definition):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in ("self", "cls") or node.value.id in module.classes:
                    holder = owner if node.value.id in ("self", "cls") else node.value.id
                    todo += [(each, f"{kind}.{node.attr}") for each, kind in _bases(modules, here[0], holder)]
                elif node.value.id in module.imported:
                    todo.append((module.imported[node.value.id], node.attr))
            elif isinstance(node, ast.Name):
                todo.append((here[0], node.id))
                target = module.imported.get(node.id)
                if target is None:
                    continue
                is_key = id(node) in keys and (target.startswith("pyinfra.facts.") or ".facts." in target)
                if not is_key and _is_impure(target):
                    yield f"{here[0]}.{here[1]}", target
                owner_module, _, attribute = target.rpartition(".")
                todo.append((owner_module, attribute))
        for node in ast.walk(definition):  # imports within the function
            if isinstance(node, ast.Import | ast.ImportFrom):
                for target in imports(ast.unparse(node)):
                    if _is_impure(target):
                        yield f"{here[0]}.{here[1]}", target


def _is_impure(target: str) -> bool:
    return target.split(".")[0] in IMPURE or any(
        target == each or target.startswith(f"{each}.") for each in FORBIDDEN_OF_OURS
    )


def _bases(modules: Mapping[str, Module], name: str, kind: str) -> Iterator[tuple[str, str]]:
    """A class and its base classes, each with its module."""
    module = modules.get(name)
    if module is None or kind not in module.classes:
        return
    yield name, kind
    for base in module.classes[kind].bases:
        if isinstance(base, ast.Name):
            owner, _, attribute = module.imported.get(base.id, f"{name}.{base.id}").rpartition(".")
            yield from _bases(modules, owner, attribute)


def _fact_keys(definition: ast.AST) -> set[int]:
    """Names that are used as the first argument of ``seen.get`` or ``query``, in a dict of facts, or in annotations."""
    found = set()
    for node in ast.walk(definition):
        if isinstance(node, ast.Call) and node.args and _called(node.func) in ("get", "query", "Query"):
            found.add(id(node.args[0]))
        elif isinstance(node, ast.Dict):
            found |= {id(value) for value in node.values}
        elif isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            found |= {id(each) for each in ast.walk(node.annotation)}
    return found


def module_state(source: str) -> list[str]:
    """Places where a module changes its own state: ``global``, a changed module-level name, or a cached function."""
    tree = ast.parse(source)
    names = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            found.append(f"line {node.lineno}: global {', '.join(node.names)}")
        elif isinstance(node, ast.FunctionDef):
            found += [
                f"line {node.lineno}: {node.name} is cached"
                for decorator in node.decorator_list
                if {"cache", "lru_cache", "cached"}
                & {_called(decorator), _called(getattr(decorator, "func", decorator))}
            ]
            found += _changed(node, names - _local_names(node))
    return found


def _changed(function: ast.FunctionDef, names: set[str]) -> Iterator[str]:
    for node in ast.walk(function):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATING:
            targets = [node.func]
        for target in targets:
            holder = target
            while isinstance(holder, ast.Attribute | ast.Subscript):
                holder = holder.value
            if isinstance(holder, ast.Name) and holder is not target and holder.id in names:
                yield f"line {holder.lineno}: {function.name} changes {holder.id}"


def _local_names(function: ast.FunctionDef) -> set[str]:
    """Parameters and local variables of a function, which shadow names of the module."""
    arguments = function.args
    bound = {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
    return bound


def foreign_imports(source: str) -> set[str]:
    """Imports of anything other than this package, pyinfra and ``__future__``."""
    return {module for module in imports(source) if module.split(".")[0] not in ("llamarig", "pyinfra", "__future__")}
