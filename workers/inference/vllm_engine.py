"""The first engine: vLLM in this process, offline; on a CPU and on CUDA from the same code."""

import gc
import json
import os
from collections.abc import Sequence
from typing import Any

import torch

from shared.errors import InputError
from shared.machine import has_avx512
from shared.prompts import SystemPrompt
from shared.settings import settings
from shared.vlm.encode import VIDEO_KWARGS, Encoder
from workers.inference.engines import Answer, Asked, Checkpoint, ParityError, Shown

# Read by vLLM when it is imported.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # on a CPU it warns about threads at every request
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(settings().engine_processes))

from vllm import LLM, SamplingParams
from vllm.platforms import current_platform

from workers.inference.media import told

#: compressed-tensors formats that vLLM can run on a CPU, with the operator each needs (None: torch's own); int4's needs
#: AVX-512.
CPU_KERNELS = {"pack-quantized": "cpu_gemm_wna16", "int-quantized": "onednn_scaled_mm", "float-quantized": None}
GPU_MEMORY = 0.9  #: share of a GPU's memory for all engines together
CPU_FULL_PROMPTS = 8  #: prompts of full length for which the KV cache of a CPU engine has room


class VLLMEngine:
    """Greedy, one token: the letters' log-probabilities are all that is asked for.

    Raises:
        InputError: there is no kernel for the checkpoint's format here.
    """

    def __init__(self, checkpoint: Checkpoint, encoder: Encoder, longest: int) -> None:
        if current_platform.is_cpu() and checkpoint.quantization and not has_kernel(checkpoint.quantization):
            raise InputError(
                f"{checkpoint.folder}: vLLM has no kernel for {checkpoint.quantization} on this CPU; predict with "
                "`engine: transformers`, say so in ROADQA_VLLM_LACKS for `engine: auto`, or use a GPU"
            )
        check_normalisation(encoder)
        self._encoder = encoder
        self._llm = LLM(str(checkpoint.folder), **options(checkpoint, longest))

    def put_weights(self, checkpoint: Checkpoint, encoder: Encoder) -> None:
        self._encoder = encoder
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(checkpoint.folder)})
        self._llm.reset_prefix_cache()
        self._llm.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()  # the scheduler's book of it, beside the worker's own

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()

    def answer(self, asked: Sequence[Asked], system_prompt: SystemPrompt) -> list[Answer]:
        for item, output in zip(asked, outputs := self._outputs(asked, system_prompt), strict=True):
            self._check(item, output, system_prompt)
        return self._answers(asked, outputs)

    def shown(self, asked: Sequence[Asked], system_prompt: SystemPrompt) -> list[Shown]:
        """What the model is shown, whatever the encoder says to it: unlike `answer`, this judges nothing."""
        rendered = self._llm.renderer.render_cmpl(
            [self._prompt(item, system_prompt) for item in asked], skip_mm_cache=True
        )
        outputs = self._outputs(asked, system_prompt)
        return [
            Shown(output.prompt_token_ids, inputs["mm_kwargs"]["video"][0].get_data(), answer.logprobs)
            for output, inputs, answer in zip(outputs, rendered, self._answers(asked, outputs), strict=True)
        ]

    @property
    def precision(self) -> str:
        """Type of its arithmetic, as torch calls it."""
        return str(self._llm.llm_engine.model_config.dtype).removeprefix("torch.")

    def _outputs(self, asked: Sequence[Asked], system_prompt: SystemPrompt) -> list[Any]:
        prompts = [self._prompt(item, system_prompt) for item in asked]
        params = [
            SamplingParams(temperature=0, max_tokens=1, logprob_token_ids=self._letters(item), detokenize=False)
            for item in asked
        ]
        return list(self._llm.generate(prompts, params, use_tqdm=False))

    def _letters(self, item: Asked) -> list[int]:
        return self._encoder.letter_ids(len(item.question.choices))

    def _prompt(self, item: Asked, system_prompt: SystemPrompt) -> dict[str, Any]:
        return {
            "prompt_token_ids": self._encoder.short_ids(item.question, system_prompt),
            "multi_modal_data": {"video": [(item.clip.frames, told(item.clip))]},
            "multi_modal_uuids": {"video": [item.frames_id]},
        }

    def _check(self, item: Asked, output: Any, system_prompt: SystemPrompt) -> None:
        due = self._encoder.prompt_ids(item.question, item.clip, system_prompt)
        if output.prompt_token_ids != due:
            raise ParityError(
                f"question {item.question.id}: the engine saw {len(output.prompt_token_ids)} tokens, "
                f"the encoder says {len(due)}; check the installed vLLM and transformers against the lock file"
            )

    def _answers(self, asked: Sequence[Asked], outputs: Sequence[Any]) -> list[Answer]:
        answers: list[Answer] = []
        for item, output in zip(asked, outputs, strict=True):
            found = output.outputs[0].logprobs[0]
            chosen = torch.tensor([found[token].logprob for token in self._letters(item)])
            answers.append(Answer(tuple(torch.log_softmax(chosen, dim=-1).tolist()), len(output.prompt_token_ids)))
        return answers


def has_kernel(quantization: str) -> bool:
    """Whether this CPU's build of vLLM can run a compressed-tensors format."""
    current_platform.import_kernels()  # vLLM itself does so with the first engine only
    if quantization not in CPU_KERNELS:
        return False
    operator = CPU_KERNELS[quantization]
    return operator is None or hasattr(torch.ops._C, operator)


def check_normalisation(encoder: Encoder) -> None:
    """vLLM normalises on the device, a clip's pixels with what the processor says of images.

    Raises:
        InputError: the processor treats clips otherwise.
    """
    image, video = encoder.processor.image_processor, encoder.processor.video_processor
    names = ("image_mean", "image_std", "rescale_factor", "do_normalize", "do_rescale")
    if any(getattr(image, name) != getattr(video, name) for name in names):
        raise InputError("the processor normalises images and clips differently; predict with `engine: transformers`")


def options(checkpoint: Checkpoint, longest: int) -> dict[str, Any]:
    """Arguments of `vllm.LLM`: what the settings say, and what the video contract asks."""
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    longest = min(longest, config["text_config"]["max_position_embeddings"])
    chosen: dict[str, Any] = {
        "max_model_len": longest,
        "max_num_seqs": settings().engine_requests,
        "limit_mm_per_prompt": {"image": 0, "video": 1},
        "mm_processor_kwargs": VIDEO_KWARGS,
        "tensor_parallel_size": settings().engine_gpus,
        "kv_cache_memory_bytes": settings().engine_kv_cache_bytes or None,
        "gpu_memory_utilization": GPU_MEMORY / settings().engines,
        "seed": 0,
    }
    if settings().engine_kv_offload_bytes:
        chosen["kv_offloading_size"] = settings().engine_kv_offload_bytes / 2**30
    if current_platform.is_cpu():
        # Without a compiler pass, and with the cache's size given, there is nothing to warm up.
        chosen |= {"enforce_eager": True, "kv_cache_memory_bytes": settings().engine_kv_cache_bytes
                   or CPU_FULL_PROMPTS * longest * kv_bytes(config["text_config"])}  # fmt: skip
        if checkpoint.quantization is None and not has_avx512():
            chosen["dtype"] = "float32"
    return chosen


def kv_bytes(text: dict[str, Any]) -> int:
    """Bytes of keys and values of one token, two bytes a number."""
    heads = text.get("num_key_value_heads") or text["num_attention_heads"]
    size = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    return int(2 * 2 * text["num_hidden_layers"] * heads * size)
