"""What of the processor decides which arithmetic is fast, and which kernels there are."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
#: Schemes (`shared/schemes.py`) that vLLM 0.32 runs on no CPU, and those that need AVX-512; a test asks vLLM itself.
_NO_CPU, _AVX512 = "nvfp4a16,mxfp4a16", "awq,gptq"


def has_avx512() -> bool:
    """Whether this CPU has AVX-512. Without it bfloat16 takes two to five times as long as float32.

    Where Linux does not say (macOS, whose containers run in a machine of their own) it counts as missing.
    """
    return CPUINFO.is_file() and "avx512f" in CPUINFO.read_text(encoding="utf-8")


def vllm_lacks() -> str:
    """Quantisations that vLLM 0.32's CPU build has no kernel for on this processor."""
    return _NO_CPU if has_avx512() else f"{_NO_CPU},{_AVX512}"
