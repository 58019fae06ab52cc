from __future__ import annotations

import subprocess
import sys

import pytest

import hf_integration
from hf_integration import _linear, plugin
from mp_plugins import Registry, load_registry

WITHOUT = """
import sys
sys.modules["{module}"] = None
import hf_integration, hf_integration.plugin
from mp_plugins import MissingDependencyError
try:
    hf_integration.attach
except MissingDependencyError as error:
    print(error)
"""


@pytest.fixture
def python(tmp_path):
    def run(code):
        # Elsewhere than in the source tree: `-c` puts the working directory first on the path.
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
        return done.stdout.strip()

    return run


def test_importing_loads_neither_torch_nor_transformers(python):
    heavy = "sorted({'torch', 'transformers'} & sys.modules.keys())"
    assert python(f"import sys, hf_integration, hf_integration.plugin; print({heavy})") == "[]"


@pytest.mark.parametrize("module", ["torch", "transformers"])
def test_a_missing_library_names_the_extra(python, module):
    assert python(WITHOUT.format(module=module)).endswith("pip install 'magic-pyramid[hf]'")


def test_every_public_name_exists():
    assert all(getattr(hf_integration, name) is not None for name in hf_integration.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hf_integration.nothing


def test_our_objects_come_in_by_the_entry_point():
    assert {name: made.__name__ for name, made in load_registry("token_pruners").items()} == {
        "attention": "AttentionPruner",
        "cls-attention": "ClsAttentionPruner",
        "top-k": "TopKPruner",
        "gate": "GatePruner",
    }
    assert {name: made.__name__ for name, made in load_registry("exit_criteria").items()} == {
        "entropy": "EntropyCriterion",
        "confidence": "ConfidenceCriterion",
        "confidence-margin": "MarginCriterion",
        "patience": "PatienceCriterion",
        "agreement": "AgreementCriterion",
        "learned": "LearnedCriterion",
    }
    assert isinstance(load_registry("model_families")["bert"], hf_integration.BertFamily)


def test_the_entry_point_registers_the_model_type(python):
    code = (
        "import mp_plugins; mp_plugins.load_registry('model_families'); "
        "from transformers import AutoConfig; print(type(AutoConfig.for_model('magic_pyramid_roberta')).__name__)"
    )
    assert python(code) == "MagicPyramidRobertaConfig"


def test_diagnostics_tell_versions_and_what_is_missing(monkeypatch):
    registry = Registry("diagnostic")
    plugin.mp_register_diagnostics(registry)
    rows = registry["hf_integration"]()
    assert rows["torch"][0].isdigit()
    assert rows["SIMD level of prepacked weights"] == list(_linear.linear_levels())[-1]
    monkeypatch.setattr(plugin, "_LIBRARIES", ("no-such-library",))
    assert "magic-pyramid[hf]" in registry["hf_integration"]()["no-such-library"]
