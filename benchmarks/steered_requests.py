"""Sixteen people at once, each with a prompt and a feature of their own."""

from __future__ import annotations

from pathlib import Path

from benchmarks.steering_peers.job import Job, SteeredRequest
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.sae_file import SaeBundle

NUM_REQUESTS = 16
SHORTEST, LONGEST = 16, 48  # tokens of a prompt

_DENSITIES = (0.001, 0.05)  # of the features: neither almost never nor nearly always active
_STRENGTH = 0.5  # of a feature's recorded maximum

TEXTS = (
    "The little boat left the harbour early in the morning, and by noon nobody on board could see the",
    "My grandmother used to say that the best soup is made of whatever is left at the end of the week, "
    "because nothing should be wasted and",
    "When the train finally arrived, two hours late, the passengers on the platform had already begun to",
    "In the spring of that year the river rose higher than anyone in the village could remember. The "
    "bridge held, but the mill",
    "There are three things that you should check before you buy a used car. First of all, look at the",
    "The teacher closed the book, looked around the room for a long while, and asked a question that none "
    "of the children had expected:",
    "Our company was founded in a small garage with one table and two chairs. Since then we have grown "
    "into a team that",
    "It was raining when she came home from work. The kitchen light was on, although she was sure that she "
    "had turned it off, and on the table lay",
    "To grow tomatoes on a balcony you need a large pot, good soil and at least six hours of sun. Begin by",
    "The committee met on Tuesday to discuss the new library. After a long debate the members agreed that "
    "the building should",
    "I have always been afraid of dogs, so when my neighbour asked me to look after hers for a month, I",
    "Long before the first ships crossed the ocean, sailors told each other stories about an island where "
    "the sand was made of silver and the birds",
    "The recipe is simple: take two cups of flour, a pinch of salt and a little warm water, mix well and",
    "Scientists who study the deep sea have found a fish that makes its own light. They believe that it",
    "Dear Thomas, thank you for your letter, which reached me only yesterday. I am glad to hear that you and "
    "the family are well, and that the new house",
    "At the end of the last lap the two runners were side by side, and the crowd stood up and shouted until",
)


def steered_job(
    host: HostModel, host_folder: Path, bundle: SaeBundle, sae_folder: Path, *, num_new: int, threads: int
) -> Job:
    """The sixteen requests: an `add` of features evenly spread over those that are active now and then."""
    assert bundle.statistics is not None, "the SAE has no statistics of its features"
    density = bundle.statistics.density
    fitting = ((density >= _DENSITIES[0]) & (density <= _DENSITIES[1])).nonzero().flatten().tolist()
    features = fitting[:: len(fitting) // NUM_REQUESTS][:NUM_REQUESTS]
    prompts = [host.tokenizer(text)["input_ids"] for text in TEXTS]
    return Job(
        host_folder=str(host_folder),
        sae_folder=str(sae_folder),
        layer=HookPoint.parse(bundle.metadata.hook_point).layer,
        num_new=num_new,
        threads=threads,
        requests=[
            SteeredRequest(
                prompt_ids=prompt,
                feature=feature,
                strength=_STRENGTH * float(bundle.statistics.max_activation[feature]),
            )
            for prompt, feature in zip(prompts, features, strict=True)
        ],
    )
