from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from steerd.errors import HostError
from steerd.host.hook_point import SITES, HookPoint
from steerd.host.host_model import HostModel
from tests.tiny_hosts import VOCAB_SIZE, byte_tokenizer, make_tiny_host

INPUT_IDS = torch.tensor([list(b"a tiny host"), list(b"of 3 layers")])
PACKED_IDS = INPUT_IDS.reshape(1, -1)


@pytest.fixture
def host():
    return make_tiny_host("llama")


def logits(host, input_ids=INPUT_IDS):
    with torch.no_grad():
        return host.model(input_ids).logits


def test_it_describes_its_model(host):
    assert (host.d_model, host.num_layers, host.vocab_size, host.max_context) == (32, 3, VOCAB_SIZE, 512)
    assert (host.device, host.dtype) == (torch.device("cpu"), torch.float32)
    assert host.special_token_ids == {256, 257, 258}
    assert host.eos_token_ids == {258}
    assert host.has_chat_template
    assert not host.model.training
    assert not any(parameter.requires_grad for parameter in host.model.parameters())


def test_eos_ids_come_from_generation_config_and_tokenizer(host):
    host.model.generation_config.eos_token_id = [256, 7]

    assert host.eos_token_ids == {256, 7, 258}


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("input_ids", [INPUT_IDS, PACKED_IDS], ids=["batch", "packed"])
def test_a_hook_sees_rows_whatever_the_batch(host, site, input_ids):
    seen = []
    handle = host.attach(HookPoint(1, site), lambda rows: seen.append(rows))

    logits(host, input_ids)
    handle.remove()
    logits(host, input_ids)

    (rows,) = seen
    point = HookPoint(1, site)
    assert rows.shape == (22, 32)
    assert torch.equal(rows.view(*input_ids.shape, 32), host.activations(input_ids, None, [point])[point])


@pytest.mark.parametrize("site", SITES)
def test_a_replacement_goes_on_into_the_forward(host, site):
    plain = logits(host)

    handle = host.attach(HookPoint(1, site), lambda rows: rows + 1.0)
    edited = logits(host)
    handle.remove()

    assert not torch.allclose(plain, edited)
    assert torch.equal(plain, logits(host))


def test_an_edited_row_changes_neither_earlier_tokens_nor_other_sequences(host):
    def edit(rows):
        edited = rows.clone()
        edited[15] += 1.0  # sequence 1, token 4
        return edited

    plain = logits(host)
    handle = host.attach(HookPoint(1, "resid_post"), edit)
    edited = logits(host)
    handle.remove()

    assert torch.equal(plain[0], edited[0])
    assert torch.equal(plain[1, :4], edited[1, :4])
    assert not torch.allclose(plain[1, 4:], edited[1, 4:])


def test_resid_post_of_a_layer_is_resid_pre_of_the_next(host):
    handle = host.attach(HookPoint(0, "resid_post"), lambda rows: rows * 2.0)
    points = [HookPoint(0, "resid_post"), HookPoint(1, "resid_pre")]

    found = host.activations(INPUT_IDS, None, points)
    handle.remove()

    assert torch.equal(found[points[0]], found[points[1]])


def test_hooks_of_one_hook_point_run_in_order_of_attachment(host):
    point = HookPoint(2, "mlp_out")
    handles = [host.attach(point, lambda rows: rows * 0.0), host.attach(point, lambda rows: rows + 3.0)]

    found = host.activations(INPUT_IDS, None, [point])[point]
    for handle in handles:
        handle.remove()

    assert torch.equal(found, torch.full_like(found, 3.0))


def test_finding_a_hook_point_runs_no_attached_hook(host):
    calls = []
    handles = [host.attach(HookPoint(0, site), lambda _rows: calls.append(1)) for site in SITES]

    host.check_hook_point(HookPoint(0, "mlp_out"))
    assert len(host.hook_points()) == 12
    for handle in handles:
        handle.remove()

    assert calls == []


def test_hook_points_are_found_while_another_attention_is_installed(host):
    found = host.hook_points()

    other = make_tiny_host("llama")
    other.model.set_attn_implementation("paged|eager")

    assert other.hook_points() == found
    assert other.model.config._attn_implementation == "paged|eager"
    point = HookPoint(0, "attn_out")
    assert torch.equal(
        other.activations(INPUT_IDS, None, [point])[point], host.activations(INPUT_IDS, None, [point])[point]
    )


def test_activations_stop_the_forward_at_the_last_hook_point(host):
    host.check_hook_point(HookPoint(1, "attn_out"))  # finds it, once, by running its layer
    ran = []
    handles = [
        module.register_forward_hook(lambda module, _args, _output: ran.append(module))
        for module in host.model.modules()
    ]

    found = host.activations(INPUT_IDS, None, [HookPoint(0, "resid_pre"), HookPoint(1, "attn_out")])
    for handle in handles:
        handle.remove()

    layers = host.model.model.layers
    assert set(found) == {HookPoint(0, "resid_pre"), HookPoint(1, "attn_out")}
    assert layers[0] in ran
    assert layers[1].self_attn in ran
    assert not {layers[1].mlp, layers[1], layers[2], host.model.lm_head} & set(ran)


def test_activations_leave_no_hook_behind(host):
    host.activations(INPUT_IDS, None, [HookPoint(1, "resid_post")])

    assert logits(host).shape == (*INPUT_IDS.shape, VOCAB_SIZE)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in host.model.modules())


def test_activations_of_nothing_are_nothing(host):
    assert host.activations(INPUT_IDS, None, []) == {}


def test_activations_can_be_trained_on(host):
    point = HookPoint(1, "resid_post")
    weight = torch.ones(32, requires_grad=True)

    (host.activations(INPUT_IDS, None, [point])[point] * weight).sum().backward()

    assert weight.grad is not None


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_that_is_not_there_is_refused_with_the_layers_that_are(host, layer):
    with pytest.raises(
        HostError, match=rf"no hook point blocks\.{layer}\.hook_resid_post: its layers are 0 to 2"
    ):
        host.attach(HookPoint(layer, "resid_post"), lambda _rows: None)


def tiny_llama(**overrides):
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        **overrides,
    )
    return LlamaForCausalLM(config)


def test_layers_that_cannot_be_told_are_refused():
    model = tiny_llama()
    model.other_tower = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])

    with pytest.raises(
        HostError, match=r"num_hidden_layers = 3 entries, found 2 among model\.layers \(3\), other"
    ):
        HostModel(model, byte_tokenizer(), name="two-towers")


def test_no_module_list_of_that_length_is_refused():
    model = tiny_llama()
    model.config.num_hidden_layers = 2

    with pytest.raises(HostError, match=r"= 2 entries, found 0 among model\.layers \(3\)"):
        HostModel(model, byte_tokenizer(), name="short")


def test_a_module_list_inside_a_layer_does_not_confuse():
    model = tiny_llama()
    model.model.layers[1].experts = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])

    assert HostModel(model, byte_tokenizer(), name="nested").num_layers == 3


def test_a_layer_used_twice_is_refused():
    model = tiny_llama()
    model.model.layers[2] = model.model.layers[0]

    with pytest.raises(HostError, match="uses one layer several times"):
        HostModel(model, byte_tokenizer(), name="looped")


def test_layers_that_do_not_pass_one_stream_on_are_refused():
    model = tiny_llama()
    model.model.layers[1].register_forward_pre_hook(lambda _layer, args: (args[0] * 2.0, *args[1:]))

    with pytest.raises(HostError, match="layer 1 does not take what layer 0 returns"):
        HostModel(model, byte_tokenizer(), name="broken-stream")


def test_the_hash_of_a_host_in_memory_is_that_of_its_config():
    assert make_tiny_host("llama").content_hash == make_tiny_host("llama", seed=1).content_hash
    assert make_tiny_host("llama").content_hash != make_tiny_host("llama", rope_theta=500.0).content_hash


def test_logits_are_those_of_the_model_and_padding_changes_nothing(tiny_host: HostModel) -> None:
    short, long = list(b"Hello"), list(b"Hello there")
    padded = torch.tensor([short + [0] * (len(long) - len(short)), long])
    mask = torch.tensor([[1] * len(short) + [0] * (len(long) - len(short)), [1] * len(long)])

    logits = tiny_host.logits(padded, mask)

    with torch.no_grad():
        for row, ids in zip(logits, (short, long), strict=True):
            alone = tiny_host.model(input_ids=torch.tensor([ids])).logits[0]
            torch.testing.assert_close(row[: len(ids)], alone)


@pytest.mark.parametrize("site", SITES)
def test_a_hook_attached_as_the_first_sees_what_no_other_edited(host, site):
    point, seen = HookPoint(1, site), {}
    plain = host.activations(INPUT_IDS, None, [point])[point].view(22, 32)
    handles = [
        host.attach(point, lambda rows: rows + 1.0),
        host.attach(point, lambda rows: seen.update(last=rows.clone())),
        host.attach(point, lambda rows: seen.update(first=rows.clone()), first=True),
    ]

    logits(host)
    for handle in handles:
        handle.remove()

    assert torch.equal(seen["first"], plain)
    assert torch.equal(seen["last"], plain + 1.0)


def test_a_run_ends_after_the_hooks_of_its_last_point(host):
    seen = []
    handles = [host.attach(point, lambda _rows, at=point: seen.append(at)) for point in host.hook_points()]

    host.run(INPUT_IDS, None, until=HookPoint(1, "attn_out"))
    for handle in handles:
        handle.remove()

    first = [HookPoint(0, site) for site in ("resid_pre", "attn_out", "mlp_out", "resid_post")]
    assert seen == [*first, HookPoint(1, "resid_pre"), HookPoint(1, "attn_out")]
