"""MODEL_CARD.md: what a person must know before using a network: its data, split, scores with intervals, protocol, limits of use.

The sections are those of Mitchell et al. 2019, "Model cards for model reporting", as far as a run can fill them; the rest asks its author.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from medseg.deploy.description import Description
from medseg.deploy.scored import are_of, read_scores, scored_name
from medseg.errors import MedsegError
from medseg.exporting.quantise import Int8
from medseg.publishing.markdown import markdown
from medseg.publishing.published import caption, publish
from medseg.publishing.trained import network_text, read_trained, start_text, training_text
from medseg.run import LoadedRun

LIMITS = (
    "A research model. It is no medical device, was not assessed as one, and decides nothing about a patient.",
    "It knows pictures like those it was trained on: another camera, light, pose, age or disease is unknown ground, and it does not say so "
    "by itself. Score it on your own annotated images first: `medseg score`.",
    "It gives every pixel a class. There is no class for an image that shows something else altogether.",
    "Its confidence is the network's probability of the class shown, which is no probability of being right unless calibration says so.",
)


def card_of(loaded: LoadedRun, description: Description, int8: Int8 | None) -> str:
    """The card as Markdown."""
    lines = [f"# {description.origin.run}", "", *_summary(loaded, description), "", "## Data", "", *_data(loaded, description)]
    lines += ["", "## Training", "", *_training(loaded), "", "## Scores", "", *_scores(loaded, description)]
    if int8:
        lines += ["", "## Eight bits", "", *_eight_bits(int8)]
    lines += ["", "## Limits of use", "", *(f"- {limit}" for limit in LIMITS), *_few(loaded)]
    return "\n".join(lines) + "\n"


def _summary(loaded: LoadedRun, description: Description) -> Iterator[str]:
    origin, frame = description.origin, description.frame
    yield f"Segments photographs into {', '.join(description.labels.names)} by the network `{origin.network}`."
    yield ""
    yield f"- Input: an upright RGB photograph of any size, seen at {frame.width_px} x {frame.height_px} px (width x height)."
    if frame.window_px:
        yield f"- Seen by windows of {frame.window_px[1]} x {frame.window_px[0]} px that overlap by {frame.overlap:.0%}."
    yield f"- Passes: {'the mean over the image and its mirror image' if frame.mirrored_too else 'one'}."
    yield "- Post-processing: " + ("; ".join(step.told() for step in description.post_steps) or "none") + "."
    yield f"- Checkpoint: {origin.checkpoint}" + (f", epoch {origin.epoch}" if origin.epoch is not None else "") + "."
    yield f"- Code: medseg {origin.medseg}, commit {origin.commit or 'unknown'}{' with uncommitted changes' if origin.dirty else ''}."
    yield f"- Digests: weights `{origin.weights_sha256[:12]}`, configuration `{origin.config_sha256[:12]}`; `model.json` has them whole."


def _data(loaded: LoadedRun, description: Description) -> Iterator[str]:
    dataset, origin = loaded.dataset, description.origin
    digests = json.loads(loaded.run.digests_json.read_text(encoding="utf-8"))
    parts = ", ".join(f"{count} {part}" for part, count in digests.get("images", {}).items())
    yield f"- Data set: {dataset.name}; licence: {dataset.licence}."
    if dataset.citation:
        yield f"- Cite: {dataset.citation}"
    if dataset.source:
        yield f"- Source: {dataset.source}"
    which = f"manifest `{str(origin.manifest_sha256)[:12]}`, split `{str(origin.split_sha256)[:12]}`"
    yield f"- Split `{origin.split}`: {parts} images; {which}."


def _training(loaded: LoadedRun) -> Iterator[str]:
    trained = read_trained(loaded.run.path)
    if trained is not None:
        yield from (f"- {text}" for text in (network_text(trained), start_text([trained]), f"Recipe: {training_text(trained)}"))


def _scores(loaded: LoadedRun, description: Description) -> Iterator[str]:
    """Of test, else of val, of exactly this checkpoint with these steps: another network's would be no scores of it."""
    for part in ("test", "val"):
        name = scored_name(part, description.origin.checkpoint)
        scores = read_scores(loaded.run, name)
        if scores is not None and are_of(scores, description):
            yield from _table(loaded, part, name)
            return
    yield "This network was never scored as it is exported. Do so, then export it again:"
    yield f"`medseg evaluate {loaded.run.path} --split test --data-root ...`."


def _table(loaded: LoadedRun, part: str, name: str) -> Iterator[str]:
    try:
        published = publish([str(loaded.run.path)], name)
    except MedsegError as error:
        yield f"The scores on {part} cannot be read: {error}"
        return
    if part == "val":
        yield "On val, which the checkpoint was chosen on, so that they flatter; test was not scored."
        yield ""
    for table in published.tables.values():
        yield from markdown(table)
        yield ""
        yield caption(published, table)
        yield ""
    yield published.sources[0].protocol.sentence()


def _eight_bits(int8: Int8) -> Iterator[str]:
    yield f"Weights and activations are of 8 bits, calibrated on {int8.images} train images. On val, mean IoU over classes and regions "
    yield f"without background (pooled) is {int8.after:.4f} with them and {int8.before:.4f} without. The scores above are of the network "
    yield "without them."


def _few(loaded: LoadedRun) -> Iterator[str]:
    counts = json.loads(loaded.run.digests_json.read_text(encoding="utf-8")).get("images", {})
    if counts.get("test", 0) < 100:
        yield f"- Its test part has {counts.get('test', 0)} images only: of scores on so few read the intervals, not the means."
