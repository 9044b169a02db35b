from __future__ import annotations

from collections.abc import Sequence

from servable._server.border.gateway import PublishedModel
from servable._server.config.traffic import Shadow, TrafficSplit, WeightedVersion
from servable._server.publisher import ModelPublisher, Traffic
from servable.errors import Code, LoadError
from servable.lifecycle import ServableEvent, ServableId, ServableState
from servable.testing import FakeServable


class ServingMap:
    """The state of a request path."""

    def __init__(self) -> None:
        self.models: dict[str, PublishedModel] = {}
        self.publishes = 0

    def __call__(self, models: Sequence[PublishedModel]) -> None:
        self.publishes += 1
        self.models.update({model.name: model for model in models})


def event(
    version: int,
    state: ServableState,
    error: LoadError | None = None,
    servable: FakeServable | None = None,
) -> ServableEvent:
    return ServableEvent(ServableId("m", version), state, error, servable)


def test_every_version_that_was_heard_of_is_published_with_its_state() -> None:
    served = ServingMap()
    publisher = ModelPublisher(served)
    servable = FakeServable()
    publisher(event(1, ServableState.AVAILABLE, servable=servable))
    publisher(event(2, ServableState.END, LoadError("damaged", code=Code.DATA_LOSS)))
    first, second = served.models["m"].versions
    assert (first.version, first.state, first.servable) == (1, 30, servable)
    assert (second.version, second.state, second.servable) == (2, 50, None)
    assert (second.error_code, second.error_message) == (15, "damaged")


def test_a_version_is_withdrawn_in_the_publish_that_calls_it_unloading() -> None:
    served = ServingMap()
    publisher = ModelPublisher(served)
    publisher(event(1, ServableState.AVAILABLE, servable=FakeServable()))
    publisher(event(1, ServableState.UNLOADING))
    (version,) = served.models["m"].versions
    assert (version.state, version.servable) == (40, None)


def test_an_expected_model_says_why_it_does_not_answer_until_it_does() -> None:
    served = ServingMap()
    publisher = ModelPublisher(served)

    def reason() -> str | None:
        return served.models["m"].unavailable_reason

    publisher.expect(["m"])
    assert reason() == "Model m is not available yet: no version was found"
    publisher(event(1, ServableState.LOADING))
    assert reason() == "Model m is not available yet: version 1 is loading"
    publisher(event(1, ServableState.END, LoadError("damaged", code=Code.DATA_LOSS)))
    assert reason() == "Model m is not available yet: version 1 failed to load: DATA_LOSS: damaged"
    publisher(event(2, ServableState.AVAILABLE, servable=FakeServable()))
    assert reason() is None
    publisher(event(2, ServableState.UNLOADING))
    assert reason() is None


def test_nothing_is_expected_of_a_model_that_is_no_longer_configured() -> None:
    served = ServingMap()
    publisher = ModelPublisher(served)
    publisher.expect(["m"])
    publisher.forget_expected(["m", "never heard of"])
    assert served.models["m"].unavailable_reason is None


def test_labels_are_replaced_together_in_one_publish() -> None:
    served = ServingMap()
    publisher = ModelPublisher(served)
    publisher.set_labels({"a": {"stable": 1}, "b": {"stable": 2}})
    assert served.publishes == 1
    publisher.set_labels({"b": {"stable": 3, "canary": 4}})
    assert served.publishes == 2
    assert served.models["a"].labels == {}
    assert served.models["b"].labels == {"stable": 3, "canary": 4}
    publisher.set_labels({"b": {"stable": 3, "canary": 4}})
    assert served.publishes == 2


def test_desired_labels_attach_when_their_versions_become_available() -> None:
    served = ServingMap()
    publisher = ModelPublisher(served)

    def labels() -> object:
        return served.models["m"].labels

    publisher.set_labels({"m": {"stable": 1, "next": 2}}, ["m"])
    publisher(event(1, ServableState.LOADING))
    assert labels() == {}
    publisher(event(1, ServableState.AVAILABLE, servable=FakeServable()))
    assert labels() == {"stable": 1}
    publisher(event(2, ServableState.AVAILABLE, servable=FakeServable()))
    assert labels() == {"stable": 1, "next": 2}


def test_a_desired_label_stays_where_it_is_until_it_can_move() -> None:
    served = ServingMap()
    publisher = ModelPublisher(served)

    def labels() -> object:
        return served.models["m"].labels

    publisher(event(1, ServableState.AVAILABLE, servable=FakeServable()))
    publisher.set_labels({"m": {"stable": 1, "old": 1}}, ["m"])
    publisher.set_labels({"m": {"stable": 2}}, ["m"])
    assert labels() == {"stable": 1}, "and the label that is no longer desired is gone"
    publisher(event(2, ServableState.AVAILABLE, servable=FakeServable()))
    assert labels() == {"stable": 2}
    publisher(event(2, ServableState.UNLOADING))
    assert labels() == {"stable": 2}, "as any label, it may point to a version that has left"
    publisher.set_labels({}, ["m"])
    assert labels() == {}


def test_labels_splits_and_shadows_change_in_one_publish() -> None:
    served = ServingMap()
    publisher = ModelPublisher(served)
    split = TrafficSplit("", (WeightedVersion(1, 9), WeightedVersion(2, 1)))
    publisher.set_labels({"m": {"stable": 1}}, (), {"m": Traffic((split,), Shadow(3, 0.5))})
    assert served.publishes == 1
    model = served.models["m"]
    assert (model.labels, model.splits, model.shadow) == ({"stable": 1}, (split,), Shadow(3, 0.5))
    publisher.set_labels({"m": {"stable": 1}}, (), {"m": Traffic((split,), Shadow(3, 0.5))})
    assert served.publishes == 1, "nothing has changed"
    publisher(event(1, ServableState.AVAILABLE, servable=FakeServable()))
    assert served.models["m"].splits == (split,), "a version that comes keeps what is configured"
    publisher.set_labels({})
    model = served.models["m"]
    assert (model.labels, model.splits, model.shadow) == ({}, (), None)
