"""A contract's prompt as a chat template, so that other libraries ask as we do."""

import json
import re
import sys
import unicodedata

from gve_jax.contract import Contract

# Lines that every template begins with: messages to `seen`.
_READ = """\
{#- The prompt of one item, up to the token that is pooled: always whole, whether or
    not a generation prompt is asked for. A system message is the instruction; a user
    message has an image, a video and text, or some of them. -#}
{%- set seen = namespace(instruction="", text="", image=0, video=0) -%}
{%- for message in messages -%}
  {%- if message["role"] not in ("system", "user") -%}
    {{- raise_exception("an embedding has no " ~ message["role"] ~ " message") -}}
  {%- endif -%}
  {%- if message["content"] is string -%}
    {%- if message["role"] == "system" -%}
      {%- set seen.instruction = seen.instruction ~ message["content"] -%}
    {%- else -%}
      {%- set seen.text = seen.text ~ message["content"] -%}
    {%- endif -%}
  {%- else -%}
    {%- for part in message["content"] -%}
      {%- if part["type"] == "video" or "video" in part -%}
        {%- set seen.video = seen.video + 1 -%}
      {%- elif part["type"] == "image" or "image" in part or "image_url" in part -%}
        {%- set seen.image = seen.image + 1 -%}
      {%- elif message["role"] == "system" -%}
        {%- set seen.instruction = seen.instruction ~ part["text"] -%}
      {%- else -%}
        {%- set seen.text = seen.text ~ part["text"] -%}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endfor -%}
{%- if seen.image > 1 or seen.video > 1 -%}
  {{- raise_exception("an item has one image and one video at most") -}}
{%- endif -%}
{%- set video = VIDEO if seen.video else "" -%}
{%- set image = IMAGE if seen.image else "" -%}
{%- set text = seen.text -%}
{%- set kinds = (["video"] if video else []) + (["image"] if image else []) -%}
{%- set kinds = (kinds + (["text"] if text else [])) | join("+") -%}
{%- if seen.instruction -%}
  {%- set instruction = seen.instruction -%}
{%- else -%}
  {%- set instruction = INSTRUCTIONS.get(kinds, DEFAULT) -%}
{%- endif -%}
"""
_END = """\
{%- if seen.instruction -%}
  {%- set instruction = instruction | trim -%}
  {%- if instruction and instruction[-1] not in PUNCTUATION -%}
    {%- set instruction = instruction ~ END -%}
  {%- endif -%}
{%- endif -%}
"""
_SEPARATOR = """\
{%- if instruction and text -%}
  {%- set instruction = instruction ~ SEPARATOR -%}
{%- endif -%}
"""
_SLOTS = {
    "{system}": "instruction",
    "{instruction}": "instruction",
    "{video}": "video",
    "{image}": "image",
    "{text}": "text",
}


def chat_template(contract: Contract) -> str:
    """Jinja that renders messages to what `PromptTemplate.fill` tokenises.

    One placeholder stands for each medium, which the processors of transformers expand;
    for a video whose groups are apart it is the bare one, which they replace by the
    times and groups of Qwen3-VL.

    Two things differ. No text is cut to `max_tokens`. And a user's text that spells
    special tokens is text here; who tokenises the rendered string takes them for what
    they spell, or, with `sanitize_control_tokens`, cuts the text at them.
    """
    c = contract
    values = {
        "VIDEO": c.video.replace("{groups}", "<|video_pad|>"),
        "IMAGE": c.image,
        "INSTRUCTIONS": c.instructions,
        "DEFAULT": c.default_instruction,
        "PUNCTUATION": _punctuation() if c.instruction_end else "",
        "END": c.instruction_end,
        "SEPARATOR": c.separator,
    }
    head = _READ + _END * bool(c.instruction_end) + _SEPARATOR * bool(c.separator)
    names = re.compile(rf"\b({'|'.join(values)})\b")
    head = names.sub(lambda name: _literal(values[name[0]]), head)
    lines = []
    for i, (kinds, form) in enumerate(c.forms.items()):
        word = "elif" if i else "if"
        lines.append(f"{{%- {word} kinds == {_literal(kinds)} -%}}")
        lines.append(f"  {{{{- {_expression(form + c.pooled_token)} -}}}}")
    whole = f"{{{{- {_expression(c.template + c.pooled_token)} -}}}}"
    lines += ["{%- else -%}", f"  {whole}", "{%- endif -%}"] if lines else [whole]
    return head + "\n".join(lines) + "\n"


def _expression(form: str) -> str:
    """A form of the prompt as the Jinja expression that fills it."""
    parts, rest = [], form
    while rest:
        at, slot = min(
            ((rest.find(slot), slot) for slot in _SLOTS if slot in rest),
            default=(len(rest), ""),
        )
        if at:
            parts.append(_literal(rest[:at]))
        if slot:
            parts.append(_SLOTS[slot])
        rest = rest[at + len(slot) :]
    return " ~ ".join(parts)


def _literal(value) -> str:
    # JSON's strings and objects are Jinja's too.
    return json.dumps(value, ensure_ascii=False)


def _punctuation() -> str:
    """Every character of Unicode's categories P*, which `PromptTemplate` asks for."""
    return "".join(
        chr(i)
        for i in range(sys.maxunicode + 1)
        if unicodedata.category(chr(i)).startswith("P")
    )
