"""An inspected model as one YAML text: what is known of it in comments, then a configuration to fill in.

The text as a whole is a configuration file: `score-images inspect MODEL > config.yaml`. What only the people know who
have trained the model says FILL_IN there, which `score-images config --check` refuses by name.
"""

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from pipeline.before.inspect_model import Inspection
from transforms.redaction import printable

FILL_IN = "FILL_IN"
"""Stands where a value is missing; no setting takes it."""
_WIDTH = 110
_BATCH_SIZE = 16
_TOP_K = 5
_FEW_LABELS = 3


def inspection_text(found: Inspection) -> str:
    """Say what a model is, then how to configure it."""
    facts = [_fact(name, text) for name, text in _facts(found)]
    return "\n".join([*facts, "", config_text(found).rstrip()])


def config_text(found: Inspection) -> str:
    """Return a configuration for the model, in YAML; what cannot be known says FILL_IN."""
    return (
        "\n".join([*_model_lines(found), *_label_lines(found), *_preprocess_lines(found), *_other_lines(found)]) + "\n"
    )


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    about = found.description
    yield "model", found.model.path
    yield "format", about.format
    yield "fingerprint", about.fingerprint
    if about.signatures:
        yield "signatures", _choice(about.signatures, about.signature)
    yield "input", f"{_tensor(about.input_name, about.input_dtype, about.input_shape)}, {_input_kind(found)}"
    for output in about.outputs:
        yield "output", f"{output}{', in use' if len(about.outputs) > 1 and output.name == about.output_name else ''}"
    yield "classes", _classes(found)
    yield "head", f"{about.head or 'not visible'}: {about.head_reason}"
    yield "reading", found.reading_reason
    yield "parameters", f"{about.parameter_count:,}"
    yield (
        "batch",
        "any number of images" if about.fixed_batch is None else f"{about.fixed_batch} images a call",
    )
    yield "labels", _labels(found)


def _fact(name: str, text: str) -> str:
    return _wrap(text, f"# {name:<11} ", f"# {'':<11} ")


def _comment(text: str) -> list[str]:
    return _wrap(text, "  # ", "  # ").split("\n")


def _wrap(text: str, first: str, following: str) -> str:
    # Names come from the model: none may hold a line end of YAML's and get out of its comment.
    return textwrap.fill(
        printable(text),
        _WIDTH,
        initial_indent=first,
        subsequent_indent=following,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _choice(names: tuple[str, ...], chosen: str | None) -> str:
    if len(names) == 1:
        return names[0]
    return ", ".join(f"{name} (in use)" if name == chosen else name for name in names)


def _tensor(name: str, dtype: str, shape: tuple[int | None, ...]) -> str:
    return f"{name} {dtype}[{', '.join('?' if n is None else str(n) for n in shape) if shape else '...'}]"


def _input_kind(found: Inspection) -> str:
    if found.description.layout == "bytes":
        return "encoded images, which it decodes itself"
    rows, columns = ("any height" if n is None else n for n in (found.height, found.width))
    size = "any size" if found.height is None and found.width is None else f"{rows} x {columns}"
    return f"{found.description.layout}: {'grey' if found.channels == 1 else 'colour'} images of {size}"


def _classes(found: Inspection) -> str:
    if found.num_units is None:
        return "not known before it has scored an image"
    return "2, from one unit that speaks for both" if found.num_units == 1 else str(found.num_units)


def _labels(found: Inspection) -> str:
    names = found.description.labels
    if names is None:
        return "none in its assets"
    more = ", ..." if len(names) > _FEW_LABELS else ""
    problem = f"; {found.labels_problem}" if found.labels_problem else ""
    return f"{len(names)} in its assets: {', '.join(map(repr, names[:_FEW_LABELS]))}{more}{problem}"


def _model_lines(found: Inspection) -> Iterator[str]:
    given = found.model
    yield "model:"
    yield f"  path: {_scalar(given.path)}"
    for key in ("signature", "output_name", "hub_cache"):
        if (value := getattr(given, key)) is not None:
            yield f"  {key}: {_scalar(value)}"
    if given.tags is not None:
        yield f"  tags: [{', '.join(map(_scalar, given.tags))}]"
    if given.trust:
        yield "  trust: true"
    yield from _comment(found.reading_reason)
    reading = found.reading
    yield f"  output: {reading.output if reading else f'{FILL_IN}  # logits or probabilities'}"
    yield f"  activation: {reading.activation if reading else f'{FILL_IN}  # softmax or sigmoid; none for odd ones'}"


def _label_lines(found: Inspection) -> Iterator[str]:
    has_thresholds = found.reading is not None and found.reading.activation == "sigmoid"
    section = bool(found.labels_problem) or has_thresholds
    if section or found.description.labels is None:
        yield ""
        yield "labels:" if section else "# labels:"
    if found.labels_problem:
        yield from _comment(found.labels_problem)
        yield f"  offset: {FILL_IN}  # or path: a file with the right labels"
    elif found.description.labels is None:
        serves = "negative and positive serve" if found.num_units == 1 else "the class index serves"
        yield f"{'  # ' if section else '#   '}path: labels.txt  # one label a line; without it {serves}"
    if has_thresholds:
        yield "  thresholds: 0.5  # the probability from which a label counts as positive"


def _preprocess_lines(found: Inspection) -> Iterator[str]:
    yield ""
    yield "preprocess:"
    if found.scales_itself:
        why = "decodes and scales images" if found.description.layout == "bytes" else "takes pixels as they are"
        yield f"  value_range: 0_255  # the model {why} itself"
    else:
        yield from _comment(
            "No file of a model tells which values it was trained on, and the wrong ones cost accuracy without an "
            "error: 0_1, -1_1 or 0_255, then mean and std where the training had them."
        )
        yield f"  value_range: {FILL_IN}"
        yield "  # mean: [0.485, 0.456, 0.406]  # in units of value_range"
        yield "  # std: [0.229, 0.224, 0.225]"
    if found.description.layout == "bytes":
        return
    for side, length in (("height", found.height), ("width", found.width)):
        if length is None:
            yield f"  {side}: {FILL_IN}  # the model takes any; give what it was trained with"
    yield "  # resize: shortest_edge       # exact squashes, letterbox pads"
    yield "  # crop_pct: 0.875             # the share of the image that training kept"
    yield "  # interpolation: bicubic"
    if found.channels == 1:
        yield "  # The model takes grey images: it gets their luminance."
    else:
        yield "  # channel_order: rgb"


def _other_lines(found: Inspection) -> Iterator[str]:
    if found.num_classes is not None and found.num_classes < _TOP_K:
        yield from ("", "results:", f"  top_k: {found.num_classes}  # it has no more classes")
    fixed = found.description.fixed_batch
    if fixed is not None:
        size = fixed * max(1, _BATCH_SIZE // fixed)
        yield from ("", "batch:", f"  size: {size}  # a multiple of {fixed}, the number of images that the model takes")


def _scalar(value: Any) -> str:
    # Letters of all languages stay, unless characters that act are among them: then YAML's escapes stand for all.
    plain = printable(str(value)) == str(value)
    style = None if plain else '"'
    text = yaml.safe_dump(value, width=10**9, allow_unicode=plain, default_style=style)
    return str(text).removesuffix("...\n").strip()
