"""lmms-eval itself, offline, on a task of this disk: its scores are those of `blink.eval` on the same questions.

`make lmms` makes the environment in which this runs.
"""

import gc
import importlib.util
import json
import os
import weakref
from pathlib import Path
from typing import Any

import pytest

from blink.runs.files import read_jsonl
from blink.runs.values import UserError
from tests.integrations.harness.task import NAME, write_task
from tests.processes import inherited, python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("lmms_eval") is None,
        reason="lmms_eval is not installed; `make lmms` runs this",
    ),
    pytest.mark.filterwarnings("ignore"),  # of lmms-eval's own imports
]

_IMAGES = 5
_BLINK = "layers=8-10,tau_exp=0.5"


def run(folder: Path, *launcher: str, arguments: str) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Scores and samples of the task in `folder / "task"`, of a run of lmms-eval."""
    output = folder / f"out-{len(list(folder.iterdir()))}"
    done = python(
        *launcher,
        *("-m", "lmms_eval", "--model", "blink_mllm", "--model_args", arguments, "--tasks", NAME),
        *(
            "--include_path",
            str(folder / "task"),
            "--output_path",
            str(output),
            "--log_samples",
            "--device",
            "cpu",
        ),
        env={**os.environ, **inherited(), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")},
        timeout=570,
    )
    found = list(output.rglob("*_results.json"))
    assert len(found) == 1, done.stdout + done.stderr
    scores = json.loads(found[0].read_text(encoding="utf-8"))["results"][NAME]
    [samples] = output.rglob(f"*_samples_{NAME}.jsonl")
    return scores, sorted(read_jsonl(samples), key=lambda sample: int(sample["doc_id"]))


def test_scores_are_those_of_blink_eval(tmp_path: Path) -> None:
    """Would catch a plugin that lmms-eval does not find, prompts of another wording, answers in another order, counts that are lost, and a process whose share is."""
    asked = write_task(tmp_path / "task", _IMAGES)
    done = python(
        *(
            "-m",
            "blink.eval",
            "method=vanilla,blink",
            "layer=8-10",
            "tau_exp=0.5",
            f"scenes.images={_IMAGES}",
        ),
        *(
            "bench.splits=[adversarial]",
            "bench.max_new_tokens=16",
            "logger=none",
            "model.device=cpu",
            "--multirun",
        ),
        env={**os.environ, **inherited()},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    for method, launcher in (("vanilla", ()), ("blink", two)):
        [folder] = (tmp_path / "outputs").rglob(f"*method-{method}*/scores.json")
        ours = json.loads(folder.read_text(encoding="utf-8"))["metrics"]
        rows = {row["id"]: row for row in read_jsonl(folder.parent / "predictions.jsonl")}
        scores, samples = run(tmp_path, *launcher, arguments=f"pretrained=tiny,method={method},{_BLINK}")
        assert [sample["filtered_resps"] for sample in samples] == [
            rows[each.id]["response"] for each in asked
        ]
        for metric in ("accuracy", "precision"):
            assert 100 * scores[f"pope_{metric},none"] == pytest.approx(ours[f"adversarial_{metric}"])
        assert 100 * scores["pope_f1_score,none"] == pytest.approx(ours["adversarial_f1"])
        counts = [sample["token_counts"][0] for sample in samples]
        assert [count["output_tokens"] for count in counts] == [rows[each.id]["tokens"] for each in asked]
        assert all(count["input_tokens"] > 144 for count in counts)


def test_what_the_model_does_not_do_is_refused_in_one_line() -> None:
    """Would catch a task of likelihoods that scores None, and an argument that nobody reads."""
    from lmms_eval.models import get_model, list_available_models

    assert "blink_mllm" in list_available_models()
    made = get_model("blink_mllm")
    with pytest.raises(UserError, match=r"unknown argument 'tau_ex' \(did you mean tau_exp"):
        made.create_from_arg_string("pretrained=tiny,tau_ex=1", {"batch_size": 1})
    with pytest.raises(UserError, match="--batch_size 0"):
        made.create_from_arg_string("pretrained=tiny", {"batch_size": "0"})
    model = made.create_from_arg_string(
        "pretrained=tiny,method=vanilla", {"batch_size": "auto", "device": "cpu"}
    )
    assert (model.rank, model.world_size) == (0, 1)
    for method in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(UserError, match=r"choose tasks of output_type generate_until"):
            method([])
    with pytest.raises(UserError, match="leave it out, or choose template="):
        model.apply_chat_template([])
    assert model.generate_until([]) == []
    kept = weakref.ref(model._settings.backbone.load().model)
    model.clean()
    gc.collect()
    assert kept() is None  # a judge may need its memory
    assert model.device.type == "cpu"
