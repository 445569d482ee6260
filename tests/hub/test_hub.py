"""Models from a Hub on the loopback: what is kept, and every fault as one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from melange_sky.errors import InputError, SourceUnavailableError
from melange_sky.hub import fetch
from melange_sky.hub.models import load_checkpoint, pull
from melange_sky.hub.reference import ModelReference, parse_reference
from melange_sky.hub.store import ModelStore
from melange_sky.models import read_model
from tests.hub.server import COMMIT, LATER, Answer, HubServer, weights

REPO = "org/tiny-1B"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
TENSORS = {
    "model.embed_tokens.weight": ("BF16", [1000, 64]),
    "model.norm.weight": ("BF16", [64]),
    **{
        f"model.layers.{layer}.{name}.weight": ("BF16", shape)
        for layer in range(2)
        for name, shape in {
            "self_attn.q_proj": [64, 64],
            "self_attn.k_proj": [32, 64],
            "self_attn.v_proj": [32, 64],
            "self_attn.o_proj": [64, 64],
            "mlp.gate_proj": [128, 64],
            "mlp.up_proj": [128, 64],
            "mlp.down_proj": [64, 128],
            "input_layernorm": [64],
            "post_attention_layernorm": [64],
        }.items()
    },
}
FILES = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": weights(TENSORS)}
REFERENCE = ModelReference(REPO)


def refusal(kind, tmp_path, reference=REFERENCE) -> str:
    with pytest.raises(kind) as refused:
        read_model(load_checkpoint(reference, tmp_path, offline=False))
    text = str(refused.value)
    assert "\n" not in text
    assert text.startswith(REPO)
    return text


def test_a_model_is_fetched_once_and_kept_by_its_commit(hub, tmp_path):
    hub.put(REPO, {**FILES, "generation_config.json": b"{}"})
    first = load_checkpoint(REFERENCE, tmp_path, offline=False)
    assert first.revision == COMMIT
    assert sorted(first.files) == ["config.json", "generation_config.json"]
    asked = len(hub.seen)
    again = load_checkpoint(REFERENCE, tmp_path, offline=True)
    assert len(hub.seen) == asked
    assert again == first
    read = read_model(again)
    assert read.file_bytes == 2 * read.layers.parameters
    assert again.tensors.by_part["embedding"] == 2 * 64_000
    assert ModelStore(tmp_path).kept() == [(REPO, "main", COMMIT)]


def test_only_small_files_are_fetched_and_weights_by_their_header(hub, tmp_path):
    hub.put(REPO, FILES)
    pull(REFERENCE, tmp_path, offline=False)
    gets = [(path, headers.get("Range")) for verb, path, headers in hub.seen if verb == "GET"]
    header = len(FILES["model.safetensors"]) - 64
    assert [span for path, span in gets if path.endswith("model.safetensors")] == [
        "bytes=0-7",
        f"bytes=8-{header - 1}",
    ]


def test_a_moved_branch_changes_nothing_that_was_kept(hub, tmp_path):
    hub.put(REPO, FILES)
    pull(REFERENCE, tmp_path, offline=False)
    wider = {**CONFIG, "intermediate_size": 192}
    hub.put(REPO, {"config.json": json.dumps(wider).encode()}, commit=LATER)
    for name in ("model.safetensors",):
        hub.answers.pop(f"/{REPO}/resolve/main/{name}")
    assert load_checkpoint(REFERENCE, tmp_path, offline=False).revision == COMMIT
    pull(REFERENCE, tmp_path, offline=False)
    assert load_checkpoint(REFERENCE, tmp_path, offline=True).revision == LATER
    pinned = load_checkpoint(ModelReference(REPO, COMMIT), tmp_path, offline=True)
    assert pinned.config["intermediate_size"] == 128


def test_a_branch_that_moves_while_it_is_read_gives_files_of_one_commit(hub, tmp_path):
    hub.put(REPO, FILES)
    pull(REFERENCE, tmp_path, offline=False)
    later = [path for verb, path, _ in hub.seen[1:] if verb == "HEAD"]
    assert all(f"/resolve/{COMMIT}/" in path for path in later)


def test_a_renamed_model_is_followed(hub, tmp_path):
    hub.put("org/new-1B", FILES)
    for name in FILES:
        for revision in ("main", COMMIT):
            hub.answers[f"/{REPO}/resolve/{revision}/{name}"] = Answer(
                status=307, headers={"Location": f"/org/new-1B/resolve/{revision}/{name}"}
            )
    assert load_checkpoint(REFERENCE, tmp_path, offline=False).revision == COMMIT


def test_a_token_goes_to_the_hub_alone(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_mine")
    other = HubServer()
    try:
        hub.put(REPO, FILES)
        other.answers["/cdn"] = Answer(FILES["model.safetensors"])
        hub.fault(
            REPO,
            "model.safetensors",
            Answer(
                status=302,
                headers={
                    "Location": f"{other.url.replace('127.0.0.1', 'localhost')}/cdn",
                    "X-Linked-Size": "999999999",
                    "X-Linked-ETag": '"x"',
                },
            ),
        )
        pull(REFERENCE, tmp_path, offline=False)
        bare = [
            (verb, path)
            for verb, path, headers in map(_lower, hub.seen)
            if "hf_secret_of_mine" not in headers.get("authorization", "")
        ]
        assert bare == [("HEAD", f"/{REPO}/resolve/{COMMIT}/config.json")]  # is it free to all?
        assert other.seen
        assert all("authorization" not in h for _, _, h in map(_lower, other.seen))
    finally:
        other.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hf_secret_of_mine" not in kept


def test_what_none_but_a_token_opens_is_remembered_as_gated(hub, tmp_path, monkeypatch):
    hub.put(REPO, FILES)
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_mine")
    assert not pull(REFERENCE, tmp_path, offline=False).gated
    hub.answers[f"/{REPO}/resolve/{COMMIT}/config.json"].token = "hf_secret_of_mine"
    assert pull(REFERENCE, tmp_path, offline=False).gated
    checkpoint = load_checkpoint(REFERENCE, tmp_path, offline=True)
    assert checkpoint.gated
    assert read_model(checkpoint).shape.gated


def test_the_bytes_of_the_files_size_the_weights(hub, tmp_path):
    within = int(2 * 138_048 * 1.02)
    index = {"metadata": {"total_size": within}, "weight_map": {}}
    files = {**FILES, "model.safetensors.index.json": json.dumps(index).encode()}
    hub.put(REPO, files)
    shape = read_model(load_checkpoint(REFERENCE, tmp_path, offline=False)).shape
    assert shape.weight_bytes == pytest.approx(within)
    assert shape.download_bytes == within


def _lower(seen):
    verb, path, headers = seen
    return verb, path, {name.lower(): value for name, value in headers.items()}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            Answer(status=401, headers={"X-Error-Code": "RepoNotFound"}),
            "this model is not on the Hub, or is private: check the id, and set HF_TOKEN for a private one",
        ),
        (
            Answer(status=403, headers={"X-Error-Code": "GatedRepo"}),
            "this model is gated: accept its licence on the Hub and set HF_TOKEN to a token of that account",
        ),
        (
            Answer(status=403),
            "the Hub refuses it (HTTP 403): set HF_TOKEN to a token that may read it",
        ),
        (
            Answer(status=404, headers={"X-Error-Code": "RevisionNotFound"}),
            "this model has no revision 'main': give a branch, a tag or a commit of it",
        ),
        (
            Answer(status=404, headers={"X-Error-Code": "EntryNotFound"}),
            "this repository has no config.json, so that nothing says what it is (a GGUF or adapter repository?): give the id of the model itself",
        ),
        (Answer(b'{"model_type": "lla'), "config.json is not JSON (JSONDecodeError)"),
        (Answer(b"[1, 2]"), "config.json is not a JSON object"),
        (Answer(b'{"hidden_size": ' + b"9" * 5000 + b"}"), "config.json is not JSON (ValueError)"),
        (
            Answer(length=10 * 2**30),
            "config.json has 10737418240 bytes, more than the 16777216 that such a file may have",
        ),
        (
            Answer(endless=True),
            "config.json is longer than the 16777216 bytes that such a file may have",
        ),
        (
            Answer(b'{"model_type": "llama", "hidden_size": 99999999999999999999}'),
            "config.json: 'hidden_size' must be a whole number between 1 and 999999999",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_what_the_hub_refuses_is_one_line_with_exit_2(hub, tmp_path, answer, told):
    hub.put(REPO, FILES)
    hub.fault(REPO, "config.json", answer)
    assert refusal(InputError, tmp_path) == f"{REPO}: {told}"


@pytest.mark.parametrize(
    ("name", "answer", "told"),
    [
        (
            "model.safetensors.index.json",
            Answer(length=10 * 2**30),
            "model.safetensors.index.json has 10737418240 bytes, more than the 67108864 that such a file may have",
        ),
        (
            "model.safetensors.index.json",
            Answer(b'{"metadata": {"total_size": "many"}}'),
            "model.safetensors.index.json: 'metadata.total_size' is not a number of bytes",
        ),
        (
            "model.safetensors.index.json",
            Answer(b'{"metadata": {"total_size": 4000000}}'),
            "its config reads as 0.0002761 GB of weights where its files hold 0.004 GB: the structure is not understood well enough to plan it",
        ),
        (
            "model.safetensors",
            Answer(b"\xff" * 64),
            "model.safetensors states a header of 18446744073709551615 bytes, which is impossible",
        ),
        (
            "model.safetensors",
            Answer(FILES["model.safetensors"][:100]),
            "model.safetensors ends within its header",
        ),
        (
            "model.safetensors",
            Answer(weights({"model.x.weight": ("BF17", [1])})),
            "model.safetensors: the header's entry of 'model.x.weight' is not a tensor",
        ),
        (
            "model.safetensors",
            Answer(weights({"model.x.weight": ("F32", [2**39, 2**39])})),
            "model.safetensors: its tensors would have 1.21e+24 bytes, which is impossible",
        ),
    ],
)
def test_files_beside_the_config_are_not_believed(hub, tmp_path, name, answer, told):
    hub.put(REPO, FILES)
    hub.fault(REPO, name, answer)
    assert refusal(InputError, tmp_path) == f"{REPO}: {told}"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(status=500), "the Hub answers HTTP 500"),
        (Answer(status=429), "the Hub answers HTTP 429"),
        (
            Answer(FILES["config.json"], commit=None),
            "the server names no commit, so that nothing pins what was read",
        ),
        (Answer(FILES["config.json"], commit="../../etc"), "the server names no commit"),
        (
            Answer(FILES["config.json"], length=5000),
            "the Hub is out of reach (RemoteProtocolError)",
        ),
    ],
)
def test_a_hub_out_of_order_is_one_line_with_exit_4(hub, tmp_path, answer, told):
    hub.put(REPO, FILES)
    hub.fault(REPO, "config.json", answer)
    assert told in refusal(SourceUnavailableError, tmp_path)
    assert not list(tmp_path.rglob("config.json"))


def test_a_server_that_ignores_ranges_is_not_read_whole(hub, tmp_path):
    hub.put(REPO, FILES)
    hub.fault(REPO, "model.safetensors", Answer(FILES["model.safetensors"], ranges=False))
    assert "sends model.safetensors only as a whole" in refusal(SourceUnavailableError, tmp_path)


def test_a_dripping_server_ends_at_the_deadline(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "DEADLINE_S", 1.0)
    hub.put(REPO, FILES)
    hub.fault(REPO, "config.json", Answer(FILES["config.json"], drip_s=0.05))
    assert refusal(SourceUnavailableError, tmp_path).endswith("the Hub took longer than 1 s")


def test_nobody_listens(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "the Hub is out of reach (ConnectError)" in refusal(SourceUnavailableError, tmp_path)


def test_offline_without_a_kept_model(hub, tmp_path, monkeypatch):
    with pytest.raises(SourceUnavailableError) as refused:
        load_checkpoint(REFERENCE, tmp_path, offline=True)
    told = (
        f"{REPO}: this model is not kept on this machine and the network is forbidden; "
        f"run once with it: melange-sky models pull {REPO}"
    )
    assert str(refused.value) == told
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceUnavailableError):
        load_checkpoint(REFERENCE, tmp_path, offline=False)
    assert hub.seen == []


def test_a_kept_file_that_was_changed_is_refused(hub, tmp_path):
    hub.put(REPO, FILES)
    pull(REFERENCE, tmp_path, offline=False)
    path = next(tmp_path.rglob("config.json"))
    path.write_text(json.dumps({**CONFIG, "num_hidden_layers": 1}))
    with pytest.raises(InputError) as refused:
        load_checkpoint(REFERENCE, tmp_path, offline=True)
    assert str(refused.value) == (
        f"{path}: is not what was fetched; fetch it again: melange-sky models pull"
    )


def test_a_manifest_names_files_of_its_folder_only(hub, tmp_path):
    hub.put(REPO, FILES)
    pull(REFERENCE, tmp_path, offline=False)
    manifest = next(tmp_path.rglob("manifest.json"))
    document = json.loads(manifest.read_text())
    document["files"] = {"../../../secret": "0" * 64}
    manifest.write_text(json.dumps(document))
    with pytest.raises(InputError, match="is no file of this folder"):
        load_checkpoint(REFERENCE, tmp_path, offline=True)


@pytest.mark.parametrize(
    "text",
    [
        "../etc/passwd",
        "org/../../x",
        "org/name/../x",
        "org",
        "org/na me",
        "org/name@../../x",
        "org/name@",
        "org/name@a//b",
        "/org/name",
        "org--x/name",
        "org/" + "n" * 300,
        "org/name\n",
    ],
)
def test_ids_that_are_none(text):
    with pytest.raises(InputError):
        parse_reference(text)


def test_the_hub_differs_from_the_config(hub, tmp_path):
    """More than 3 % apart: the structure was not understood, and both numbers say so."""
    hub.put(REPO, FILES)
    hub.fault(
        REPO, "model.safetensors.index.json", Answer(b'{"metadata": {"total_size": 291000000000}}')
    )
    assert refusal(InputError, tmp_path).endswith(
        "where its files hold 291 GB: the structure is not understood well enough to plan it"
    )


def test_fields_that_are_not_read_only_warn_where_the_bytes_agree(hub, tmp_path):
    config = json.dumps({**CONFIG, "num_memory_layers": 3}).encode()
    hub.put(REPO, {**FILES, "config.json": config})
    read = read_model(load_checkpoint(REFERENCE, tmp_path, offline=False))
    assert read.warnings == ("unsupported fields: num_memory_layers",)


def run(arguments, home, endpoint, **more):
    environment = {
        **os.environ,
        "MELANGE_SKY_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": "hf_secret_of_mine",
        **more,
    }
    environment.pop("MELANGE_SKY_OFFLINE", None)
    return subprocess.run(
        [sys.executable, "-m", "melange_sky", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )


def test_the_commands_end_to_end(hub, tmp_path):
    hub.put(REPO, FILES)
    pulled = run(["models", "pull", REPO], tmp_path, hub.url)
    assert (pulled.returncode, pulled.stderr) == (
        0,
        f"{REPO}: kept config.json of commit {COMMIT}\n",
    )
    shown = run(["-vv", "models", "show", REPO, "--format", "json", "--offline"], tmp_path, hub.url)
    document = json.loads(shown.stdout)
    assert document["revision"] == COMMIT
    assert document["parameters"] == 138_048
    assert document["weight_bytes"] == 2 * 138_048
    assert list(document["files"]) == ["config.json"]
    missing = run(["models", "show", "org/other", "--offline"], tmp_path, hub.url)
    assert (missing.returncode, missing.stdout) == (4, "")
    absent = run(["-vv", "models", "show", "org/other"], tmp_path, hub.url)
    assert absent.returncode == 2
    everything = pulled.stdout + pulled.stderr + shown.stdout + shown.stderr + absent.stderr
    assert "hf_secret_of_mine" not in everything
    listed = run(["models", "list"], tmp_path, hub.url)
    assert f"{REPO}@main  (fetched, commit {COMMIT[:12]})" in listed.stdout
