"""`servable.save`: what it refuses, and what it says then."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import servable
from servable.errors import Code, SaveError
from servable.loaders._manifest import read_manifest
from servable.signature import Signature, TensorSpec

X = np.random.default_rng(0).random((60, 4)).astype("float32")


def total(x: Any) -> Any:
    return x.sum(axis=1)


class TestOfFunctions:
    def test_versions_are_numbered_and_never_replaced(self, tmp_path: Path) -> None:
        assert servable.save(total, tmp_path / "m", example=X) == tmp_path / "m/1"
        assert servable.save(total, str(tmp_path / "m"), example=X) == tmp_path / "m/2"
        assert servable.save(total, tmp_path / "m", example=X, version=9) == tmp_path / "m/9"
        with pytest.raises(SaveError, match="m/9 exists") as raised:
            servable.save(total, tmp_path / "m", example=X, version=9)
        assert raised.value.code is Code.ALREADY_EXISTS
        assert sorted(os.listdir(tmp_path / "m")) == ["1", "2", "9"]

    @pytest.mark.parametrize("tolerance", [-1.0, math.nan])
    def test_a_tolerance_that_is_none_is_refused(self, tolerance: float, tmp_path: Path) -> None:
        with pytest.raises(SaveError, match="want 0 or more"):
            servable.save(total, tmp_path, example=X, tolerance=tolerance)

    def test_a_function_that_changes_its_answers_is_not_saved(self, tmp_path: Path) -> None:
        counted = [0]

        def drifting(x: Any) -> Any:
            counted[0] += 1
            return x[:, 0] + counted[0]

        with pytest.raises(SaveError) as raised:
            servable.save(drifting, tmp_path / "m", example=X)
        message = raised.value.message
        assert 'the converted python model differs from the original: output "output_0"' in message
        assert "differs on 60 of 60 rows, with a tolerance of 0.0001:\n  row 0: expected" in message
        assert not (tmp_path / "m").exists()

    @pytest.mark.parametrize(
        ("example", "complaint"),
        [
            ((), "got no inputs, want at least one"),
            (X[0, 0], "x: got a scalar, want an array whose axis 0 is the batch"),
            (np.array([object()]), "got an element of type object, want numbers or text"),
            (np.array(["2024-01-01"], "datetime64[D]"), r"got dtype datetime64\[D\], want one of"),
            ([[1.0], [1.0, 2.0]], "got list, want an array"),
        ],
    )
    def test_what_is_no_example_is_refused(
        self, example: Any, complaint: str, tmp_path: Path
    ) -> None:
        with pytest.raises(SaveError, match=complaint):
            servable.save(unchanged, tmp_path, example=example)

    def test_a_signature_that_the_function_breaks_is_refused(self, tmp_path: Path) -> None:
        spec = TensorSpec("float32", [None, 4])
        signature = Signature({"x": spec}, {"y": TensorSpec("float32", [None, 2])})
        with pytest.raises(SaveError, match=r"got shape \[60\], want \[\?, 2\]"):
            servable.save(total, tmp_path, example=X, signature=signature)

    def test_an_example_of_other_inputs_than_the_signature_is_refused(self, tmp_path: Path) -> None:
        spec = TensorSpec("float32", [None, 4])
        with pytest.raises(SaveError, match="got the inputs z, want those of the signature: x"):
            servable.save(
                total, tmp_path, example={"z": X}, signature=Signature({"x": spec}, {"y": spec})
            )

    def test_rows_that_depend_on_each_other_are_kept_together(self, tmp_path: Path) -> None:
        def centred(x: Any) -> Any:
            return x - x.mean(axis=0)

        manifest = read_manifest(servable.save(centred, tmp_path, example=X))
        assert manifest is not None
        assert manifest.example is not None
        assert manifest.example["inputs"]["x"]["shape"] == [60, 4]
        servable.load(tmp_path).close()


def unchanged(x: Any) -> Any:
    return x


@pytest.mark.parametrize("model", [3, "model", object(), b"no model", [1]])
def test_objects_that_are_no_models_are_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(SaveError, match=r"got an object of type|bytes that are no TFLite model"):
        servable.save(model, tmp_path / "m", example=X)
    assert not (tmp_path / "m").exists()


def test_a_missing_package_is_named_with_the_command_to_install_it(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['skl2onnx'] = None\n"
        "import numpy as np, servable\n"
        "from sklearn.linear_model import LinearRegression\n"
        "x = np.eye(4)\n"
        "servable.save(LinearRegression().fit(x, x[0]), sys.argv[1], example=x)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False
    )
    assert "the conversion needs skl2onnx, which cannot be imported" in done.stderr
    assert "install it with `pip install 'servable[sklearn]'`" in done.stderr


@pytest.fixture
def regression() -> Any:
    linear_model = pytest.importorskip("sklearn.linear_model")
    return linear_model.LinearRegression().fit(X, X @ np.arange(4))


class TestOfScikitLearn:
    @pytest.fixture(autouse=True)
    def without_warnings(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of skl2onnx and onnx
            yield

    def test_the_rows_that_differ_are_shown(self, regression: Any, tmp_path: Path) -> None:
        right = regression.predict(X)
        wrong = right.copy()
        wrong[[3, 7]] += 1
        regression.predict = lambda _: wrong  # the conversion does not know it
        with pytest.raises(SaveError) as raised:
            servable.save(regression, tmp_path / "m", example=X)
        first, *rows = raised.value.message.splitlines()
        assert first == (
            "the converted sklearn model differs from the original: "
            'output "predictions" differs on 2 of 60 rows, with a tolerance of 0.0001:'
        )
        assert [row.split(":")[0] for row in rows] == ["  row 3", "  row 7"]
        assert all("difference 1" in row for row in rows)
        assert not (tmp_path / "m").exists()
        servable.save(regression, tmp_path / "m", example=X, tolerance=2)

    def test_the_signature_may_have_another_dtype(self, regression: Any, tmp_path: Path) -> None:
        signature = Signature(
            {"inputs": TensorSpec("float64", [None, 4])},
            {"predictions": TensorSpec("float64", [None])},
        )
        servable.save(regression, tmp_path, example=X, signature=signature)
        with servable.load(tmp_path) as model:
            assert model(X)["predictions"].dtype == "float64"
        other = Signature(signature.inputs, {"y": TensorSpec("float64", [None])})
        with pytest.raises(SaveError, match=r"the outputs are predictions: .*, want y: float64"):
            servable.save(regression, tmp_path, example=X, signature=other)

    def test_an_estimator_that_has_no_conversion_is_refused_with_the_reason(
        self, tmp_path: Path
    ) -> None:
        from sklearn.multioutput import MultiOutputClassifier
        from sklearn.tree import DecisionTreeClassifier

        model = MultiOutputClassifier(DecisionTreeClassifier()).fit(X, X[:, :2] > 0.5)
        with pytest.raises(SaveError, match="got 2 outputs of `predict_proba`, want one"):
            servable.save(model, tmp_path, example=X)

    def test_many_estimators_answer_as_the_original(self, tmp_path: Path) -> None:
        from sklearn import ensemble, neural_network, svm, tree
        from sklearn.compose import ColumnTransformer
        from sklearn.model_selection import GridSearchCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        target, classes = X @ np.arange(4), np.array(["a", "b", "c"])[(X[:, 0] * 3).astype(int)]
        scaled = ColumnTransformer([("scaled", StandardScaler(), [0, 1])], remainder="passthrough")
        for model in (
            ensemble.GradientBoostingRegressor(n_estimators=5),
            ensemble.HistGradientBoostingClassifier(max_iter=3),
            ensemble.IsolationForest(n_estimators=3),
            neural_network.MLPClassifier(max_iter=5),
            svm.SVR(),
            GridSearchCV(tree.DecisionTreeClassifier(), {"max_depth": [2, 3]}),
            make_pipeline(scaled, tree.DecisionTreeRegressor()),
        ):
            is_regressor = "Regress" in repr(model) or "SVR" in repr(model)
            model.fit(X, target if is_regressor else classes)
            for dtype in ("float32", "float64"):
                example = X.astype(dtype)
                manifest = read_manifest(servable.save(model, tmp_path, example=example))
                assert manifest is not None
                (spec,) = manifest.signatures["serving_default"].inputs.values()
                assert (spec.dtype, spec.shape) == (dtype, (None, 4))
