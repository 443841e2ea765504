"""Our models in timm: the contract of a timm model, in the shape of timm's own tests.

`tests/timm_suite.py` runs the suite itself, as timm publishes it.
"""

import copy
import json
import subprocess
import sys

import pytest
import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_data_config
from timm.models import FeatureInfo, group_parameters
from timm.optim import create_optimizer_v2
from torch.nn import functional as F

from gmsearch.architecture import FORMS, Architecture, Stage
from gmsearch.cost import cost
from gmsearch.errors import ArchitectureError
from gmsearch.gmnet import VARIANTS, gmnet

NAMES = ("gmnet", *VARIANTS)
SIDE = 64


def small(**stage) -> Architecture:
    stages = tuple(Stage(width=8 * i, depth=2, ratio=2, **stage) for i in (1, 2, 3, 4))
    return Architecture(stem_width=8, stem_activation="relu6", stages=stages)


def create(architecture=None, **settings):
    """`gmnet` in timm with weights as if trained: a fresh layer scale hides the blocks."""
    torch.manual_seed(0)
    model = timm.create_model("gmnet", arch=architecture or small(), num_classes=10, **settings)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.constant_(parameter, 0.5)
    return model


# Every form, and every placement.
KINDS = [("self", "none"), ("self", "spatial"), ("self", "output"), *((f, "expand") for f in FORMS)]


@pytest.fixture
def images():
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


ORDERS = {
    "after": "import timm, gmsearch",
    "before": "import gmsearch, timm",
    "a part of it": "import gmsearch; from timm.models import create_model; import timm",
    "looked up first": "import gmsearch; from importlib.util import find_spec; find_spec('timm'); "
    "import timm",
    "reloaded": "import gmsearch, timm, importlib; importlib.reload(timm)",
}


@pytest.mark.parametrize("order", ORDERS)
def test_names_are_registered_however_timm_comes_in(order):
    program = f"{ORDERS[order]}; print(timm.list_models('gmnet*'), timm.is_model('gmnet_s1'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == f"{sorted(NAMES)} True", done.stderr


def test_importing_gmsearch_does_not_import_torch():
    program = "import sys, gmsearch, gmsearch.cli; print({'torch', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize("name", VARIANTS)
def test_default_cfg_and_params(name):
    model = timm.create_model(name)
    found = resolve_data_config(model=model)
    assert found["input_size"] == (3, 224, 224) and found["crop_pct"] == 0.875
    assert found["mean"] == IMAGENET_DEFAULT_MEAN and found["std"] == IMAGENET_DEFAULT_STD
    assert sum(p.numel() for p in model.parameters()) == cost(gmnet(name)).params
    assert {f"{model.default_cfg[k]}.weight" for k in ("first_conv", "classifier")} <= set(
        model.state_dict()
    )


def test_any_architecture_as_object_dict_or_file(tmp_path):
    architecture = small(form="fc", placement="output", activation="silu")
    file = tmp_path / "arch.json"
    file.write_text(json.dumps(architecture.to_dict()))
    for arch in (architecture, architecture.to_dict(), file, str(file)):
        model = timm.create_model("gmnet", arch=arch, num_classes=3).eval()
        assert model.architecture == architecture
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    with pytest.raises(ArchitectureError, match="not an architecture"):
        timm.create_model("gmnet", arch={"stages": []})
    with pytest.raises(TypeError, match="not_a_model_arg"):
        timm.create_model("gmnet", not_a_model_arg=1)


def test_forward_and_gradient_checkpointing(images):
    model = create()
    outputs = {}
    for checkpointing in (False, True):
        run = copy.deepcopy(model)
        run.set_grad_checkpointing(checkpointing)
        logits = run(images)
        logits.square().mean().backward()
        outputs[checkpointing] = [logits.detach(), *(p.grad for p in run.parameters())]
    for plain, checkpointed in zip(outputs[False], outputs[True], strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_parts_make_the_whole(images):
    model = create().eval()
    features = model.forward_features(images)
    assert features.shape == (2, model.num_features, 2, 2)
    torch.testing.assert_close(model.forward_head(features), model(images))
    pre_logits = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pre_logits, features.mean((2, 3)))
    torch.testing.assert_close(model.get_classifier()(pre_logits), model(images))


def test_reset_classifier(images):
    model = create().eval()
    model.reset_classifier(0)
    assert model(images).shape == (2, model.head_hidden_size) and model.num_classes == 0
    model.reset_classifier(7)
    assert model(images).shape == (2, 7) and not model.get_classifier().training
    assert model.get_classifier().weight.std() < 0.03 and not model.get_classifier().bias.any()
    model.reset_classifier(0, "")
    assert model(images).shape == (2, model.num_features, 2, 2)
    model.reset_classifier(5, "catavgmax")
    assert model.head_hidden_size == 2 * model.num_features and model(images).shape == (2, 5)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("avg", lambda x: x.mean((2, 3))),
        ("max", lambda x: x.amax((2, 3))),
        ("avgmax", lambda x: (x.mean((2, 3)) + x.amax((2, 3))) / 2),
    ],
)
def test_global_pool(images, pool, expected):
    model = create(global_pool=pool).eval()
    features = model.forward_features(images)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), expected(features))


def test_in_chans():
    assert create(in_chans=1)(torch.zeros(2, 1, SIDE, SIDE)).shape == (2, 10)


def test_drop_rate_and_drop_path_rate(images):
    model = create(drop_rate=0.5, drop_path_rate=0.2)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for s in model.stages for block in s[1:]]
    assert rates == pytest.approx([0.2 * i / 7 for i in range(8)])
    torch.testing.assert_close(model.eval()(images), create().eval()(images))
    features = model.forward_features(images)
    dropped = model.train().forward_head(features, pre_logits=True)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * features.mean((2, 3))[kept])
    assert 0.2 < kept.float().mean() < 0.8


@pytest.mark.parametrize("feature_cls", ["list", "hook", "getter"])
def test_features_only(images, feature_cls):
    architecture = small()
    model = create(architecture, features_only=True, feature_cls=feature_cls).eval()
    outputs = model(images)
    assert model.feature_info.channels() == [s.width for s in architecture.stages]
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    assert [tuple(o.shape[1:]) for o in outputs] == [
        (8, 16, 16),
        (16, 8, 8),
        (24, 4, 4),
        (32, 2, 2),
    ]
    whole = create(architecture).eval()
    expected = whole.forward_intermediates(images, intermediates_only=True)
    torch.testing.assert_close(list(outputs), expected)


def test_forward_intermediates(images):
    model = create().eval()
    channels = FeatureInfo(model.feature_info, out_indices=(0, 1, 2, 3)).channels()
    final, maps = model.forward_intermediates(images)
    assert [m.shape[1] for m in maps] == channels
    torch.testing.assert_close(final, model.forward_features(images))
    torch.testing.assert_close(model.norm(maps[-1]), final)
    torch.testing.assert_close(model.forward_intermediates(images, norm=True)[1][-1], final)
    cut, [second] = model.forward_intermediates(images, [1], stop_early=True)
    torch.testing.assert_close(second, maps[1])
    torch.testing.assert_close(cut, maps[1])
    with pytest.raises(ValueError, match="NLC"):
        model.forward_intermediates(images, output_fmt="NLC")


@pytest.mark.parametrize("index", range(4))
def test_prune_intermediate_layers(images, index):
    model = create().eval()
    expected = model.forward_intermediates(images, intermediates_only=True)[index]
    taken = model.prune_intermediate_layers([index], prune_norm=True)
    torch.testing.assert_close(model.forward_features(images), expected)
    [found] = model.train().eval().forward_intermediates(images, taken, intermediates_only=True)
    torch.testing.assert_close(found, expected)
    assert not any(key.startswith(("head", "norm")) for key in model.state_dict())


def test_groups_and_weight_decay():
    model = create()
    fine = group_parameters(model, model.group_matcher(), reverse=True)
    assert fine.keys() == dict(model.named_parameters()).keys()
    assert len(set(fine.values())) == 1 + 4 * (1 + 2) + 1  # stem, stages, norm and head
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert len(set(coarse.values())) == 1 + 4 + 1
    assert model.no_weight_decay() == set()
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    assert {n for n, p in model.named_parameters() if id(p) in decayed} == {
        n for n, p in model.named_parameters() if p.ndim > 1
    }
    assert len({g["lr_scale"] for g in optimizer.param_groups}) > 5


def test_device_and_dtype():
    model = timm.create_model("gmnet", arch=small(), device="meta", dtype=torch.float64)
    floats = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    assert all(t.is_meta and t.dtype == torch.float64 for t in floats)
    model.reset_classifier(3)
    assert model.head.weight.is_meta and model.head.weight.dtype == torch.float64


@pytest.mark.parametrize(("form", "placement"), KINDS)
def test_script_trace_and_export(images, form, placement):
    architecture = small(form=form, placement=placement, activation="gelu", blocks="alternate")
    with timm.set_scriptable(True):
        scriptable = create(architecture).eval()
    model = create(architecture).eval()
    expected = model(images)
    torch.testing.assert_close(torch.jit.script(scriptable)(images), expected)
    torch.testing.assert_close(torch.jit.trace(model, images)(images), expected)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(program(images), expected)
    torch.testing.assert_close(program(images.repeat(3, 1, 1, 1)), expected.repeat(3, 1))


@pytest.mark.parametrize("architecture", [small(), small(form="dw", activation="silu")])
def test_compile_trains_with_the_same_gradients(images, architecture):
    """Without a C++ compiler: that what is compiled is one graph and right is our part."""
    eager, compiled = create(architecture), create(architecture)
    run = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    losses = [F.cross_entropy(m(images), torch.tensor([1, 2])) for m in (eager, run)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for (name, ours), theirs in zip(compiled.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(run.eval()(images), eager.eval()(images))
