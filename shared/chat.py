"""A question on a clip in OpenAI's protocol, worded as in training."""

import base64
from typing import Any

from shared.prompts import SystemPrompt, render, system_text
from shared.schema import Question


def messages(
    question: Question, clip: bytes, system_prompt: SystemPrompt, media_type: str = "video/mp4"
) -> list[dict[str, Any]]:
    """The turns up to the assistant's; the clip goes along in them."""
    url = f"data:{media_type};base64,{base64.b64encode(clip).decode()}"
    user = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": render(question)}]
    system = system_text(system_prompt)
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": user}]
