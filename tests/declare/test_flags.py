"""The table of settings: complete, consistent with the pinned llama.cpp, and the only source of derived lists."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
from llamarig.declare.base import Declaration
from llamarig.declare.field_reference import meanings
from llamarig.declare.flags import (
    Flag,
    Row,
    memory_flags,
    nested_declarations,
    owned_environment,
    owned_flags,
    rows,
    setting_of,
)
from llamarig.declare.model import Model
from llamarig.declare.refused_flags import REFUSED_FLAGS
from llamarig.declare.risky_flags import RISKY_FLAGS, risky_flags
from llamarig.declare.serve import Serve
from llamarig.declare.serve.speculation import Speculation
from llamarig.placement.declared_placement import declared_flags
from llamarig.placement.dry_run import memory_arguments
from llamarig.placement.staleness import plan_flags
from llamarig.render import server_arguments

from tests.render.golden_units import OPTIONS, PINNED

HERE = Path(__file__).parent
TABLE = list(rows(Model))
FLAGS = [row for row in TABLE if isinstance(row.setting, Flag)]
OWNED = owned_flags(TABLE)


def flag_of(row: Row) -> Flag:
    assert isinstance(row.setting, Flag)
    return row.setting


def test_every_field_carries_its_setting() -> None:
    def without_setting(declaration: type[Declaration], path: str) -> list[str]:
        missing = []
        for name, info in declaration.model_fields.items():
            nested = nested_declarations(info.annotation)
            # A discriminator (kind) is written by its constructor, not by an owner.
            if setting_of(info) is None and not nested and name != "kind":
                missing.append(f"{path}.{name}")
            missing += [field for part in nested for field in without_setting(part, f"{path}.{name}")]
        return missing

    assert without_setting(Model, "model") == []
    assert len(TABLE) > 100


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.path)
def test_a_setting_has_its_unit_source_default_and_meaning(row: Row) -> None:
    assert row.setting.becomes
    assert row.setting.unit
    assert row.setting.source
    assert meanings(row.declaration)[row.name]
    if not row.info.is_required() and row.info.default is None:
        assert row.setting.default, "None is no default: name what holds then"


def test_no_flag_is_rendered_by_two_fields_but_by_one_of_several_placements() -> None:
    counted = Counter(flag_of(row).becomes for row in FLAGS if not row.path.startswith("serve.placement"))
    assert [flag for flag, count in counted.items() if count > 1] == []


def test_every_spelling_of_a_flag_with_a_field_is_owned() -> None:
    """A flag of a field given as extra, in any spelling, would silently override the field or be overridden."""
    owned = [spellings for spellings in OPTIONS if set(spellings) & set(OWNED)]
    assert [flag for spellings in owned for flag in spellings if flag not in OWNED] == []


def test_every_rendered_flag_is_the_pinned_commits() -> None:
    rendered = {spelling for row in FLAGS for spelling in (flag_of(row).becomes, flag_of(row).off, *flag_of(row).also)}
    assert rendered - {""} - PINNED == set()


def test_no_flag_is_both_owned_and_refused() -> None:
    assert set(OWNED) & set(REFUSED_FLAGS) == set()
    assert set(REFUSED_FLAGS) - PINNED == set()
    refused = [spellings for spellings in OPTIONS if set(spellings) & set(REFUSED_FLAGS)]
    assert [flag for spellings in refused for flag in spellings if flag not in REFUSED_FLAGS] == []


RISKY = {spelling: risky for risky in RISKY_FLAGS for spelling in (risky.name, *risky.aliases)}


def test_every_spelling_that_switches_a_risky_flag_on_is_known() -> None:
    assert set(RISKY) & {*OWNED, *REFUSED_FLAGS} == set()
    assert set(RISKY) - PINNED == set()
    others = {flag for spellings in OPTIONS if set(spellings) & set(RISKY) for flag in spellings} - set(RISKY)
    assert others == {"--no-agent", "-no-ag", "--no-ui-mcp-proxy", "--no-webui-mcp-proxy"}, "these switch it off"


def test_a_risky_flag_has_the_environment_variable_that_the_pinned_commit_reads() -> None:
    lines = (HERE / "data/environment-0c1e570.txt").read_text().splitlines()
    pinned = {flag: line.split()[0] for line in lines if not line.startswith("#") for flag in line.split()[1:]}
    assert {risky.name: risky.environment for risky in RISKY_FLAGS} == {
        risky.name: pinned.get(risky.name, "") for risky in RISKY_FLAGS
    }


@pytest.mark.parametrize("spelling", RISKY)
def test_a_risky_flag_is_found_as_llama_server_reads_it(spelling: str) -> None:
    """After two dashes, llama-server reads an underscore as a dash (common/arg.cpp:824, pinned commit)."""
    underscored = spelling[:2] + spelling[2:].replace("-", "_") if spelling.startswith("--") else spelling
    for word in (spelling, underscored, f"{spelling}=x"):
        assert risky_flags(["--numa", "isolate", word]) == [RISKY[spelling]]


def test_environment_variables_are_those_the_pinned_commit_reads() -> None:
    lines = (HERE / "data/environment-0c1e570.txt").read_text().splitlines()
    pinned = {line.split()[0]: set(line.split()[1:]) for line in lines if not line.startswith("#")}
    for row in FLAGS:
        own = set(row.setting.spellings) - set(row.setting.instead)
        read = {name for name, flags in pinned.items() if flags & own}
        assert {name for name in read if not owned_environment([row]).get(name)} == set(), row.path
        assert flag_of(row).env in {*read, "LLAMA_API_KEY", ""}, row.path
    assert owned_environment(TABLE)["LLAMA_ARG_CTX_SIZE"] == "serve.context"


def test_flags_of_a_memory_dry_run() -> None:
    """Existing plans were made with these flags: another set would make all of them stale."""
    one = {
        *("--ctx-size", "--parallel", "--batch-size", "--ubatch-size", "--cache-type-k", "--cache-type-v"),
        *("--flash-attn", "--rope-freq-base", "--rope-freq-scale", "--rope-scaling", "--rope-scale"),
        *("--yarn-orig-ctx", "--n-gpu-layers", "--fit", "--fit-target", "--fit-ctx", "--tensor-split"),
        *("--override-tensor", "--n-cpu-moe", "--split-mode", "--main-gpu", "--threads", "--threads-batch", "--device"),
    }
    none = {"--op-offload", "--no-op-offload", "--kv-offload", "--no-kv-offload", "--swa-full"}
    assert memory_flags(TABLE) == {**dict.fromkeys(one, 1), **dict.fromkeys(none, 0)}
    extra = ["--override-kv", "a=int:1", "--no-host", "--no-repack"]
    assert memory_arguments(["--port", "1", *extra, "--alias", "x"]) == extra


def test_the_key_of_a_plan_made_before_stays_valid() -> None:
    """The text of the flags in plan files that older versions wrote, in their order."""
    serve = {
        **{"port": 8080, "context": 131072, "ubatch": 1024, "cache_type_k": "q8_0", "rope_freq_base": 5e6},
        **{"yarn_scale": 2.0, "yarn_original_context": 65536, "swa_full": True, "main_gpu": 1, "op_offload": False},
        **{"kv_offload": False, "threads": 10, "threads_batch": 12, "extra": ["--no-host"], "metrics": True},
        "placement": {"kind": "layers", "gpu": [3, 2], "split": [6, 4]},
    }
    names = {"name": "m", "repo": "o/r", "quant": "Q4", "build": "b", "mmproj": "p.gguf"}
    model = Model.model_validate({**names, "serve": serve})
    before = (
        "--ctx-size 131072 --parallel 1 --batch-size 2048 --ubatch-size 1024 --cache-type-k q8_0 --cache-type-v f16 "
        "--flash-attn on --rope-freq-base 5000000 --rope-scaling yarn --rope-scale 2 --yarn-orig-ctx 65536 --swa-full "
    )
    placement = (
        "--n-gpu-layers 99 --fit off --tensor-split 6,4 "
        "--override-tensor blk[.](3|4|5|8)[.]ffn_(up|down|gate|gate_up)_(ch|)exps=CPU "
    )
    after = "--main-gpu 1 --no-op-offload --no-kv-offload --threads 10 --threads-batch 12 --no-host mmproj=p.gguf"
    assert plan_flags(model, PINNED) == tuple((before + after).split())
    assert declared_flags(model, PINNED) == tuple((before + placement + after).split())


def test_every_renderer_named_in_the_table_exists_and_is_used() -> None:
    named = {flag_of(row).rendered_by for row in FLAGS} - {""}
    of_serve = {row.setting.rendered_by for row in rows(Serve) if isinstance(row.setting, Flag)} - {""}
    assert named - set(vars(server_arguments)) == set()
    assert of_serve - {row.setting.rendered_by for row in rows(Speculation) if isinstance(row.setting, Flag)} == set(
        server_arguments.RENDERERS
    )


def test_no_flag_is_written_twice_in_the_sources() -> None:
    """A flag that is rendered by the general rules is written only in the table."""
    simple = {flag_of(row).becomes for row in FLAGS if not flag_of(row).rendered_by}
    for path in sorted(Path(server_arguments.__file__).parent.glob("*.py")):
        words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        # render/presets.py leaves these to the router.
        assert words & simple <= {"--host", "--port", "--alias", "--api-key-file", "--api-prefix"}, path
