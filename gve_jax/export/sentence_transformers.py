"""The files that `sentence_transformers.SentenceTransformer` reads beside a model's.

Its Transformer module renders each item through chat_template.jinja, with `prompt` as
the system message, and asks transformers for the rest; then the last token is pooled
and normalised. `model.encode({"image": path, "text": ...}, prompt="Find the video.")`
so has the contract's prompt. Without these files it would pool the mean, and say
nothing.

Texts alone that are longer than `max_tokens` are cut as ours are; beside an image or a
video they lose what follows the text too, the pooled token included.
"""

from gve_jax.contract import Contract

_PACKAGE = "sentence_transformers"
_MODULES = (
    ("", f"{_PACKAGE}.base.modules.transformer.Transformer"),
    ("1_Pooling", f"{_PACKAGE}.{_PACKAGE[:-1]}.modules.pooling.Pooling"),
    ("2_Normalize", f"{_PACKAGE}.base.modules.normalize.Normalize"),
)


def sentence_transformers_files(contract: Contract) -> dict[str, dict | list]:
    """Path -> content, for sentence-transformers 6.2 and later."""
    states = {"method": "forward", "method_output_name": "last_hidden_state"}
    processing = {"chat_template": {"add_generation_prompt": True}}
    if contract.positions == "sequential":
        # Without these the models refuse images and videos (or, Qwen2.5-VL, count
        # tokens), instead of embedding them at other positions.
        processing["text"] = {"return_mm_token_type_ids": False}
    return {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": kind}
            for i, (path, kind) in enumerate(_MODULES)
        ],
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": {
                "text": states,
                "image": states,
                "video": states,
                "message": states | {"format": "structured"},
            },
            "module_output_name": "token_embeddings",
            "processing_kwargs": processing,
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
            "requirements": {
                "sentence-transformers": {
                    "specifier": ">=6.2",
                    "reason": "older versions know no chat templates",
                },
            },
        },
        "1_Pooling/config.json": {
            "embedding_dimension": contract.dim,
            "pooling_mode": "lasttoken",
            "include_prompt": True,
        },
        "2_Normalize/config.json": {
            "module_input_name": "sentence_embedding",
            "module_output_name": "sentence_embedding",
        },
    }
