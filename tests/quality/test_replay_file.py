"""An entity's score is made of its events' scores, in one place."""

import numpy as np

from tests.quality.replay_file import by_entity


def test_the_verdict_on_an_entity_is_its_last_score_or_the_median() -> None:
    """Of each entity's own events in their order, others between them."""
    scores = np.array([3.0, 0.0, 1.0, 5.0, 2.0])
    entities = ["a", "b", "a", "b", "a"]
    assert by_entity(scores, entities, "last") == {"a": 2.0, "b": 5.0}
    assert by_entity(scores, entities, "median") == {"a": 2.0, "b": 2.5}
