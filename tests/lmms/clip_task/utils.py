"""A small task in the form of lmms-eval's video benchmarks: a clip, a question, a letter."""


def doc_to_visual(doc):
    return [doc["clip"]] if doc["clip"] else []


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"] + lmms_eval_specific_kwargs["post_prompt"]


def process_results(doc, results):
    return {"clip_accuracy": {"id": doc["id"], "score": float(results[0] == doc["answer"])}}


def aggregate(items):
    return 100 * sum(item["score"] for item in items) / len(items)
