"""The chat templates of the Qwen-VL families, as they render our kind of conversation.

Written anew from what they do: a conversation of strings and lists of text, image and
video; no tools, no numbered media. Qwen2-VL and Qwen2.5-VL put a default system turn
before a conversation without one; Qwen3-VL does not.
"""

_TURNS = """
{%- for turn in messages -%}
  {{- "<|im_start|>" + turn.role + "\n" -}}
  {%- if turn.content is string -%}
    {{- turn.content -}}
  {%- else -%}
    {%- for part in turn.content -%}
      {%- if part.type in ("image", "video") -%}
        {{- "<|vision_start|><|" + part.type + "_pad|><|vision_end|>" -}}
      {%- else -%}
        {{- part.text -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- "<|im_end|>\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<|im_start|>assistant\n" -}}
{%- endif -%}
"""
_DEFAULT = """
{%- if messages[0].role != "system" -%}
  {{- "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" -}}
{%- endif -%}
"""
TEMPLATES = {
    "qwen2_vl": _DEFAULT + _TURNS,
    "qwen2_5_vl": _DEFAULT + _TURNS,
    "qwen3_vl": _TURNS,
}


def conversation(text: str = "", instruction: str | None = None, media=()) -> list:
    """Messages of an item: `media` are "video" and "image" in the order wanted."""
    content = [{"type": kind} for kind in media]
    if text:
        content.append({"type": "text", "text": text})
    messages = [{"role": "user", "content": content}]
    if instruction is not None:
        messages.insert(0, {"role": "system", "content": instruction})
    return messages
