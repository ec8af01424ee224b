"""LoRA adapters: as peft reads them, merged without it, and refused where they do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_trained import LAYERS, RANK, adapted, make_base
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from ranklens.data.errors import (
    InvalidInputError,
    MissingPrerequisiteError,
    NumericalError,
    UsageError,
)
from ranklens.data.models import ResolvedModel, resolve
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.lora import read_lora
from ranklens.rerank.training.adapter import (
    PROJECTIONS,
    add_lora,
    go_on_with_lora,
    merge_adapter,
    save_adapter,
)

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], None]
IDS = torch.arange(3, 40)[None]
Q0 = "base_model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base: Path) -> Any:
    return adapted(base)


@pytest.fixture(scope="module")
def adapter(base: Path, trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(folder, trained, base=resolve(str(base)), rank=RANK, dtype="float32")
    return folder


@pytest.fixture
def altered(adapter: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """Return a function that copies the adapter with its settings and tensors changed."""

    def make(change: Change) -> Path:
        folder = tmp_path / "altered"
        shutil.copytree(adapter, folder)
        settings = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")
        change(settings, tensors)
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        save_file(tensors, folder / "adapter_model.safetensors")
        return folder

    return make


def plain(base: Path, dtype: torch.dtype = torch.float32, layers: int = LAYERS) -> Any:
    config = AutoConfig.from_pretrained(base)
    config.num_hidden_layers = layers
    return AutoModel.from_pretrained(base, config=config, dtype=dtype).eval()


def hidden(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        out: torch.Tensor = model(IDS)[0]
    return out


def test_a_start_is_drawn_from_the_seed_alone_and_changes_nothing(base: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, other, another = (plain(base) for _ in range(3))
    found = add_lora(one, RANK, seed=7)
    assert torch.equal(torch.random.get_rng_state(), before), "nobody else's draws are moved"
    torch.manual_seed(99)
    again = dict(add_lora(other, RANK, seed=7))
    add_lora(another, RANK, seed=8)
    assert len(found) == 2 * len(PROJECTIONS) * LAYERS
    for name, own in found:
        assert torch.equal(own, again[name])
        bound = own.shape[1] ** -0.5 if "lora_A" in name else 0.0
        assert own.abs().max() <= bound
        assert "lora_B" in name or own.abs().max() > 0.5 * bound
    trained = {name for name, own in one.named_parameters() if own.requires_grad}
    assert trained == {name for name, _ in found}
    assert torch.equal(hidden(one), hidden(plain(base)))
    first = found[0][0]
    assert not torch.equal(dict(one.named_parameters())[first], another.get_parameter(first))


def test_a_start_in_bfloat16_is_that_of_fp32_rounded(base: Path) -> None:
    narrow = dict(add_lora(plain(base, torch.bfloat16), RANK, seed=7))
    for name, own in add_lora(plain(base), RANK, seed=7):
        assert narrow[name].dtype == torch.bfloat16
        assert torch.equal(narrow[name], own.bfloat16())


def test_what_lora_is_not_put_into(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain(base, layers=1)
    with pytest.raises(UsageError, match="rank of LoRA is 0"):
        add_lora(model, 0)
    with pytest.raises(UsageError, match=r"alpha of LoRA is -1\.0"):
        add_lora(model, 2, alpha=-1)
    add_lora(model, 2)
    with pytest.raises(InvalidInputError, match="has LoRA already"):
        add_lora(model, 2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPrerequisiteError, match=r"pip install 'ranklens\[train\]'"):
        add_lora(plain(base, layers=1), 2)


def test_an_adapter_that_is_trained_on_starts_as_it_was(
    base: Path, trained: Any, adapter: Path
) -> None:
    model = plain(base)
    before = torch.random.get_rng_state()
    found = go_on_with_lora(model, adapter)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(hidden(model), hidden(trained)), "LoRA computes in the same order"
    wanted = {name: own for name, own in trained.named_parameters() if "lora_" in name}
    assert {name for name, _ in found} == wanted.keys()
    for name, own in found:
        assert own.requires_grad
        assert torch.equal(own, wanted[name])
    with pytest.raises(InvalidInputError, match="has LoRA already"):
        go_on_with_lora(model, adapter)


def test_first_layers_are_trained_on_with_what_is_theirs(base: Path, adapter: Path) -> None:
    model = plain(base, layers=2)
    with pytest.raises(InvalidInputError, match="a part that the model does not have"):
        go_on_with_lora(model, adapter)
    found = go_on_with_lora(model, adapter, layers=LAYERS)
    assert len(found) == 2 * len(PROJECTIONS) * 2


def test_merged_weights_compute_what_was_trained(base: Path, trained: Any, adapter: Path) -> None:
    merged = plain(base)
    merge_adapter(merged, adapter)
    assert (hidden(merged) - hidden(plain(base))).abs().max() > 0.1
    torch.testing.assert_close(hidden(merged), hidden(trained), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("head", [False, True])
def test_peft_reads_the_same_adapter(base: Path, adapter: Path, head: bool) -> None:
    from peft import PeftModel

    merged = plain(base)
    merge_adapter(merged, adapter)
    if head:
        # The keys of a model with a vocabulary projection have one more part in their names.
        whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        whole.model = PeftModel.from_pretrained(whole.model, str(adapter)).merge_and_unload()
        theirs = whole.model
    else:
        theirs = PeftModel.from_pretrained(plain(base), str(adapter))
    torch.testing.assert_close(hidden(merged), hidden(theirs.eval()), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_what_peft_saves_of_a_model_with_a_head_is_read(
    base: Path, tmp_path: Path, rank_stabilised: bool
) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], layers_to_transform=[0, 2],
        use_rslora=rank_stabilised, init_lora_weights=False, task_type="CAUSAL_LM",
    )  # fmt: skip
    torch.manual_seed(0)
    theirs: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    theirs.save_pretrained(tmp_path)
    merged = plain(base)
    merge_adapter(merged, tmp_path)
    assert (hidden(merged) - hidden(plain(base))).abs().max() > 0.1
    expected = theirs.merge_and_unload().model.eval()
    torch.testing.assert_close(hidden(merged), hidden(expected), atol=2e-5, rtol=2e-5)


def test_merging_rounds_once_from_fp32(base: Path, adapter: Path) -> None:
    narrow, wide = plain(base, torch.bfloat16), plain(base, torch.bfloat16).float()
    merge_adapter(narrow, adapter)
    merge_adapter(wide, adapter)
    for name, own in narrow.named_parameters():
        assert own.dtype == torch.bfloat16
        assert torch.equal(own, wide.get_parameter(name).bfloat16()), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_adapters_lose_their_last_digits_only(
    base: Path, trained: Any, tmp_path: Path, dtype: Any
) -> None:
    save_adapter(tmp_path, trained, base=resolve(str(base)), rank=RANK, dtype=dtype)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    module = trained.get_submodule("layers.0.self_attn.q_proj")
    torch.testing.assert_close(
        stored[Q0].float(), module.lora_A["default"].weight.detach(), rtol=2**-8, atol=1e-3
    )


def test_copies_are_saved_in_place_of_the_models_own(
    base: Path, trained: Any, tmp_path: Path
) -> None:
    name = "layers.0.self_attn.q_proj.lora_A.default.weight"
    copy = torch.full_like(trained.get_parameter(name), 0.125)
    save_adapter(tmp_path, trained, base=resolve(str(base)), rank=RANK, weights={name: copy})
    assert torch.equal(load_file(tmp_path / "adapter_model.safetensors")[Q0].float(), copy)


def test_what_cannot_be_saved(base: Path, trained: Any, tmp_path: Path) -> None:
    model = resolve(str(base))
    folder = tmp_path / "out"
    with pytest.raises(InvalidInputError, match="no LoRA to save"):
        save_adapter(folder, plain(base, layers=1), base=model, rank=RANK)
    with pytest.raises(InvalidInputError, match=f"has LoRA of rank {RANK}, not 8"):
        save_adapter(folder, trained, base=model, rank=8)
    name = "layers.1.mlp.up_proj.lora_B.default.weight"
    huge = torch.full_like(trained.get_parameter(name), 1e6)
    with pytest.raises(NumericalError, match=r"lora_B of layers\.1\.mlp\.up_proj .* float16"):
        save_adapter(folder, trained, base=model, rank=RANK, dtype="float16", weights={name: huge})
    assert not folder.exists()


def test_the_base_is_named_so_that_it_is_found_again(
    base: Path, trained: Any, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base.resolve())
    assert settings["revision"] == resolve(str(base)).revision
    assert settings["lora_alpha"] == 5
    monkeypatch.chdir(base.parent)
    for spec, kept in ((f"./{base.name}", str(base.resolve())), ("org/name", "org/name")):
        save_adapter(tmp_path, trained, base=ResolvedModel(spec, base, "abc"), rank=RANK)
        settings = json.loads((tmp_path / "adapter_config.json").read_text())
        assert (settings["base_model_name_or_path"], settings["revision"]) == (kept, "abc")


def test_only_layers_that_are_loaded_are_merged(base: Path, adapter: Path) -> None:
    part = plain(base, layers=2)
    merge_adapter(part, adapter, layers=LAYERS)
    whole = plain(base)
    merge_adapter(whole, adapter)
    for name, own in part.named_parameters():
        assert torch.equal(own, whole.get_parameter(name)), name
    engine = AttentionEngine.from_pretrained(
        base, device="cpu", dtype="float32", layers=2, adapters=[adapter]
    )
    name = "layers.1.mlp.down_proj.weight"
    assert torch.equal(engine.model.get_parameter(name), whole.get_parameter(name))
    # Without a word of how many there are, the others would be another model's.
    with pytest.raises(InvalidInputError, match=r"layers\.2\..* does not have"):
        merge_adapter(plain(base, layers=2), adapter)


def settings_of(**changes: Any) -> Change:
    return lambda settings, _: settings.update(changes)


def tensor_of(key: str, value: Callable[[torch.Tensor], torch.Tensor] | None) -> Change:
    def change(_: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        old = tensors.pop(key)
        if value is not None:
            tensors[key] = value(old).contiguous()

    return change


def moved(key: str, new: str) -> Change:
    def change(_: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        tensors[new] = tensors.pop(key)

    return change


REFUSED: dict[str, tuple[Change, str]] = {
    "another kind": (settings_of(peft_type="IA3"), "peft_type is 'IA3'; only LORA"),
    "no kind": (settings_of(peft_type=None), "peft_type is None"),
    "dora": (settings_of(use_dora=True), "use_dora is True; only plain LoRA"),
    "biases": (settings_of(bias="all"), "bias is 'all'"),
    "ranks by part": (settings_of(rank_pattern={"q_proj": 2}), "rank_pattern is"),
    "saved modules": (settings_of(modules_to_save=["norm"]), "modules_to_save is"),
    "moved base": (settings_of(init_lora_weights="pissa"), "it moved the base model's weights"),
    "something new": (settings_of(use_tomorrow=True), "use_tomorrow is True"),
    "a rank of text": (settings_of(r="3"), "r is '3'; it must be a whole number"),
    "no alpha": (settings_of(lora_alpha=None), "lora_alpha is None"),
    "targets of nothing": (settings_of(target_modules=3), "target_modules is 3"),
    "a broken pattern": (settings_of(target_modules="(q_proj"), "no regular expression"),
    "layers of text": (settings_of(layers_to_transform=["0"]), "layers_to_transform is"),
    "another rank": (settings_of(r=2), r"has the shape \[3, 48\].* rank of 2 need \[2, 48\]"),
    "another width": (
        tensor_of(Q0, lambda old: torch.cat([old, old], 1)),
        r"lora_A of layers\.0\.self_attn\.q_proj has the shape \[3, 64\]",
    ),
    "NaN": (tensor_of(Q0, lambda old: old * torch.nan), "holds NaN, Inf or no floats"),
    "Inf": (tensor_of(Q0, lambda old: old + torch.inf), "holds NaN, Inf or no floats"),
    "whole numbers": (tensor_of(Q0, lambda old: old.int()), "holds NaN, Inf or no floats"),
    "a missing half": (tensor_of(Q0, None), r"lacks weights of 1 parts .*0\.self_attn\.q_proj"),
    "a part left over": (
        settings_of(target_modules=["q_proj", "k_proj"]),
        r"has weights of 20 parts that adapter_config\.json does not name",
    ),
    "a layer beyond": (
        moved(Q0, Q0.replace("layers.0", "layers.9")), r"layers\.9\..* the model does not have"
    ),
    "no such part": (moved(Q0, Q0.replace("q_proj", "x_proj")), r"x_proj.* does not have"),
    "no LoRA's name": (moved(Q0, "something.weight"), "'something.weight' is no weight of plain"),
    "embeddings": (
        moved(Q0, "base_model.model.embed_tokens.lora_embedding_A"), "is no weight of plain LoRA"
    ),
    "nothing": (lambda _, tensors: tensors.clear(), "there are no weights in it"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_an_adapter_that_would_have_to_be_guessed_at_is_refused(
    base: Path, altered: Callable[[Change], Path], what: str
) -> None:
    change, message = REFUSED[what]
    folder = altered(change)
    model = plain(base)
    with pytest.raises(InvalidInputError, match=message) as caught:
        merge_adapter(model, folder)
    assert str(folder) in str(caught.value)
    untouched = plain(base)
    for name, own in model.named_parameters():
        assert torch.equal(own, untouched.get_parameter(name)), "half merged is another model"


def test_names_that_no_part_has_are_no_lack(base: Path, altered: Callable[[Change], Path]) -> None:
    change = settings_of(target_modules=[*PROJECTIONS, "k_norm", "layers.0"])
    merge_adapter(plain(base), altered(change))


@pytest.mark.parametrize("keep", [0, 7, 200, -100])
def test_damaged_weights_are_refused(
    base: Path, altered: Callable[[Change], Path], keep: int
) -> None:
    folder = altered(lambda *_: None)
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InvalidInputError, match=r"adapter_model\.safetensors: no safetensors, or"):
        merge_adapter(plain(base), folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"adapter_config\.json:1: not JSON"),
        ("[1]", "expected a JSON object"),
        ("[" * 100_000, "not JSON that can be read"),
        ('{"r": 1' + "0" * 5000 + "}", "not JSON that can be read"),
    ],
)
def test_a_configuration_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        read_lora(tmp_path)


def test_another_models_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", hidden_size=48, intermediate_size=64)
    with pytest.raises(InvalidInputError, match="the adapter was made for another one"):
        AttentionEngine.from_pretrained(other, device="cpu", adapters=[adapter])
