"""Tasks of HumanEval with candidates made of their solutions: rewrites that mean the same and mutants that may not; gold by running."""

import ast
import gzip
import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np

from experiments.harness.assets import asset
from experiments.harness.workspace import Workspace
from experiments.subjects.list_functions import Problem
from experiments.subjects.program_runner import passes

MIRROR = {ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE, ast.Eq: ast.Eq, ast.NotEq: ast.NotEq}
OTHER: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
TRIES = 30
"""Drafts of a problem, of which the first right and wrong ones are taken that differ from all others."""


class Rewrite(ast.NodeTransformer):
    """The same program with other names, comparisons the other way round, and branches exchanged, each with a chance of one half."""

    def __init__(self, names: set[str], random: np.random.Generator):
        self.random = random
        renamed = [name for name in sorted(names) if random.random() < 0.5]
        self.names = {name: f"value_{place}" for place, name in enumerate(renamed)}

    def visit_Name(self, node: ast.Name) -> Any:
        return ast.copy_location(ast.Name(self.names.get(node.id, node.id), node.ctx), node)

    def visit_arg(self, node: ast.arg) -> Any:
        return ast.arg(self.names.get(node.arg, node.arg), node.annotation)

    def visit_Compare(self, node: ast.Compare) -> Any:
        self.generic_visit(node)
        kind = type(node.ops[0])
        if len(node.ops) == 1 and kind in MIRROR and self.random.random() < 0.5:
            return ast.Compare(node.comparators[0], [MIRROR[kind]()], [node.left])
        return node

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        if node.orelse and self.random.random() < 0.5:
            return ast.If(ast.UnaryOp(ast.Not(), node.test), node.orelse, node.body)
        return node


def mutated(tree: ast.AST, random: np.random.Generator) -> None:
    """Change one operator, comparison or integer of a program, in place."""
    changes = list[Callable[[], None]]()
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OTHER:
            changes.append(lambda node=node: setattr(node, "op", OTHER[type(node.op)]()))
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in OTHER:
            changes.append(lambda node=node: setattr(node, "ops", [OTHER[type(node.ops[0])](), *node.ops[1:]]))
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            step = int(random.choice((-1, 1)))
            changes.append(lambda node=node, step=step: setattr(node, "value", node.value + step))
    if changes:
        changes[int(random.integers(len(changes)))]()


def human_eval(count: int, each: int, most: int, seed: int, workspace: Workspace) -> list[Problem]:
    """The first `count` tasks, in an order by seed, with `each` right and as many wrong candidates, none of them the solution as published.

    most: characters of a task and of its solution. A candidate is shown as a whole function without its docstring.
    """
    with gzip.open(asset("human_eval", workspace) / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as lines:
        tasks = [json.loads(line) for line in lines]
    random, found = np.random.default_rng(seed), list[Problem]()
    for place in random.permutation(len(tasks)):
        task = tasks[place]
        if len(found) == count or len(task["prompt"]) + len(task["canonical_solution"]) > most:
            continue
        tree = ast.parse(task["prompt"] + task["canonical_solution"])
        (function,) = [node for node in tree.body if getattr(node, "name", "") == task["entry_point"]]
        assert isinstance(function, ast.FunctionDef)
        function.body = function.body[1:] if ast.get_docstring(function) else function.body
        locals_ = {
            node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        locals_ |= {node.arg for node in function.args.args}
        shown, drafts = ast.unparse(function), dict[str, str]()
        for attempt in range(TRIES):
            draft = deepcopy(tree)
            own = next(node for node in draft.body if getattr(node, "name", "") == task["entry_point"])
            if attempt % 2:
                mutated(own, random)
            own = ast.fix_missing_locations(Rewrite(locals_, random).visit(own))
            test = f"{ast.unparse(draft)}\n{task['test']}\ncheck({task['entry_point']})"
            drafts.setdefault(ast.unparse(own), test)
        drafts.pop(shown, None)
        verdicts = dict(zip(drafts, passes(list(drafts.values())), strict=True))
        chosen = [[text for text, right in verdicts.items() if right is wanted][:each] for wanted in (True, False)]
        if all(len(part) == each for part in chosen):
            found.append(Problem(task["prompt"], shown, (*chosen[0], *chosen[1]), (True,) * each + (False,) * each))
    return found
