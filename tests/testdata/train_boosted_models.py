"""Trains models of boosted trees on data of scikit-learn, and writes what the library itself predicts for them.

usage: train_boosted_models.py LIBRARY DIRECTORY

For each model, DIRECTORY gets NAME/1 with the file of the model, and NAME.npz with inputs and expected outputs.
Names of arrays are `x` for the matrix, `column:FEATURE` for columns, and `SIGNATURE:OUTPUT`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris


def holes(x: Any) -> Any:
    """A copy with missing values."""
    x = x.copy()
    x[np.random.default_rng(0).random(x.shape) < 0.2] = np.nan
    return x


BINARY = load_breast_cancer(return_X_y=True)
IRIS = load_iris(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)
COLORS = ["blue", "green", "red"]


class Writer:
    """Writes models below a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def version(self, name: str) -> Path:
        """The new version directory of a model."""
        version = self.directory / name / "1"
        version.mkdir(parents=True)
        return version

    def expect(self, name: str, x: Any, **arrays: Any) -> None:
        """Write inputs and outputs; `__` in names stands for `:`."""
        named = {key.replace("__", ":"): np.asarray(value) for key, value in arrays.items()}
        np.savez(self.directory / f"{name}.npz", x=x, **named)


def of_xgboost(writer: Writer) -> None:
    """All models of XGBoost."""
    import xgboost as xgb

    few: dict[str, Any] = {"n_estimators": 12, "max_depth": 4, "nthread": 1}
    params: dict[str, Any] = {"max_depth": 3, "nthread": 1}

    def save(name: str, model: Any, file: str = "model.ubj") -> None:
        model.save_model(writer.version(name) / file)

    x, y = holes(BINARY[0]).astype("float32"), BINARY[1]
    binary = xgb.XGBClassifier(**few).fit(x, y)
    save("binary", binary)
    shap = binary.get_booster().predict(xgb.DMatrix(x), pred_contribs=True)
    writer.expect(
        "binary",
        x,
        serving_default__labels=binary.predict(x),
        serving_default__probabilities=binary.predict_proba(x),
        contributions__contributions=shap,
    )

    x, y = IRIS[0].astype("float32"), IRIS[1]
    iris = xgb.XGBClassifier(**few).fit(x, y)
    save("iris", iris, "model.json")
    shap = iris.get_booster().predict(xgb.DMatrix(x), pred_contribs=True)
    writer.expect(
        "iris",
        x,
        serving_default__labels=iris.predict(x),
        serving_default__probabilities=iris.predict_proba(x),
        contributions__contributions=shap,
    )
    softmax = xgb.train(
        {**params, "objective": "multi:softmax", "num_class": 3}, xgb.DMatrix(x, y), 5
    )
    save("softmax", softmax)
    writer.expect("softmax", x, serving_default__labels=softmax.inplace_predict(x).astype("int64"))

    hot = np.stack([y == 0, y >= 1], 1).astype(int)
    multilabel = xgb.XGBClassifier(**few).fit(x, hot)
    save("multilabel", multilabel)
    writer.expect(
        "multilabel",
        x,
        serving_default__labels=multilabel.predict(x),
        serving_default__probabilities=multilabel.predict_proba(x),
    )

    x, y = DIABETES[0].astype("float32"), DIABETES[1]
    names = [f"f {index}" for index in range(x.shape[1])]
    named = xgb.train(params, xgb.DMatrix(x, y, feature_names=names), 12)
    save("named", named)
    matrix = xgb.DMatrix(x, feature_names=names)
    shap = named.predict(matrix, pred_contribs=True)
    writer.expect(
        "named",
        x,
        serving_default__predictions=named.predict(matrix),
        contributions__contributions=shap,
        columns__predictions=named.predict(matrix),
        columns_contributions__contributions=shap,
        **{f"column__{name}": x[:, index] for index, name in enumerate(names)},
    )

    for name, more in {
        "dart": {"booster": "dart", "rate_drop": 0.5, "one_drop": 1},
        "linear": {"booster": "gblinear", "updater": "coord_descent"},
        "poisson": {"objective": "count:poisson"},
        "forest": {"num_parallel_tree": 4, "subsample": 0.7},
        "quantiles": {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.5, 0.9]},
    }.items():
        model = xgb.train({**params, **more}, xgb.DMatrix(x, y), 6)
        save(name, model)
        # The order of sums, and so the last digit, depends on the function. Estimators use the first where they can.
        is_linear = name == "linear"
        wanted = model.predict(xgb.DMatrix(x)) if is_linear else model.inplace_predict(x)
        writer.expect(name, x, serving_default__predictions=wanted)

    two = np.stack([y, -y], 1)
    for name, strategy in {
        "two_trees": "one_output_per_tree",
        "two_outputs": "multi_output_tree",
    }.items():
        model = xgb.XGBRegressor(**few, multi_strategy=strategy, tree_method="hist").fit(x, two)
        save(name, model)
        writer.expect(name, x, serving_default__predictions=model.predict(x))

    stopped = xgb.XGBRegressor(
        n_estimators=200, learning_rate=0.5, early_stopping_rounds=20, nthread=1
    )
    stopped.fit(x[:300], y[:300], eval_set=[(x[300:], y[300:])], verbose=False)
    assert stopped.best_iteration + 1 < stopped.get_booster().num_boosted_rounds()
    save("stopped", stopped)
    writer.expect(
        "stopped",
        x,
        serving_default__predictions=stopped.predict(x),
        all_rounds__predictions=stopped.get_booster().inplace_predict(x),
    )

    groups = np.repeat(np.arange(13), 34)
    ranker = xgb.XGBRanker(**few, objective="rank:ndcg").fit(
        x, np.digitize(y, [80, 150, 220]), qid=groups
    )
    save("ranking", ranker)
    writer.expect("ranking", x, serving_default__scores=ranker.predict(x))

    with_categories(writer, xgb, params)


def categorical_data() -> tuple[Any, Any, list[str]]:
    """Codes of colors and of sizes, weights, and what depends on them."""
    random = np.random.default_rng(1)
    codes, sizes, x = random.integers(0, 3, 300), random.integers(0, 2, 300), random.random(300)
    features = np.stack([codes, sizes, x], 1).astype("float32").astype("float64")
    features[::7, 0] = np.nan
    return features, np.where(codes == 1, 5, sizes * 3) + x, ["color", "size", "weight"]


def categorical_columns(features: Any) -> dict[str, Any]:
    """The same as columns of categories."""
    colors = ["" if np.isnan(code) else COLORS[int(code)] for code in features[:, 0]]
    return {
        "column__color": [color.encode() for color in colors],
        "column__size": (features[:, 1] + 1) * 10,
        "column__weight": features[:, 2],
    }


def with_categories(writer: Writer, xgb: Any, params: dict[str, Any]) -> None:
    """A model with categories, which the library stores only for data frames: here they are added to its file."""
    features, y, names = categorical_data()
    data = {"feature_names": names, "feature_types": ["c", "c", "q"], "enable_categorical": True}
    model = xgb.train({**params, "max_cat_to_onehot": 1}, xgb.DMatrix(features, y, **data), 8)
    file = writer.version("categories") / "model.json"
    model.save_model(file)
    document = json.loads(file.read_text())
    document["learner"]["gradient_booster"]["model"]["cats"] = {
        "enc": [
            {"offsets": [0, 4, 9, 12], "values": list("".join(COLORS).encode())},
            {"type": 15, "values": [10, 20]},
            {"offsets": [], "values": []},
        ],
        "feature_segments": [0, 3, 5, 5],
        "sorted_idx": [0, 1, 2, 0, 1],
    }
    file.write_text(json.dumps(document))
    wanted = model.predict(xgb.DMatrix(features, **data))
    writer.expect(
        "categories",
        features,
        **categorical_columns(features),
        serving_default__predictions=wanted,
        columns__predictions=wanted,
    )


def of_lightgbm(writer: Writer) -> None:
    """All models of LightGBM."""
    import lightgbm as lgb

    few: dict[str, Any] = {"n_estimators": 12, "num_leaves": 7, "n_jobs": 1, "verbosity": -1}
    params: dict[str, Any] = {"num_leaves": 7, "num_threads": 1, "verbosity": -1}

    def save(name: str, model: Any) -> None:
        getattr(model, "booster_", model).save_model(writer.version(name) / "model.txt")

    x, y = holes(BINARY[0]), BINARY[1]
    binary = lgb.LGBMClassifier(**few).fit(x, y)
    save("binary", binary)
    writer.expect(
        "binary",
        x,
        serving_default__labels=binary.predict(x),
        serving_default__probabilities=binary.predict_proba(x),
        contributions__contributions=binary.predict(x, pred_contrib=True),
    )

    x, y = IRIS
    for name, objective in {"iris": "multiclass", "one_against_all": "multiclassova"}.items():
        iris = lgb.LGBMClassifier(**few, objective=objective).fit(x, y)
        save(name, iris)
        writer.expect(
            name,
            x,
            serving_default__labels=iris.predict(x),
            serving_default__probabilities=iris.predict_proba(x),
            contributions__contributions=iris.predict(x, pred_contrib=True).reshape(-1, 3, 5),
        )

    x, y = DIABETES
    names = [f"f_{index}" for index in range(x.shape[1])]
    named = lgb.train(params, lgb.Dataset(x, y, feature_name=names), 12)
    save("named", named)
    shap = named.predict(x, pred_contrib=True)
    writer.expect(
        "named",
        x,
        serving_default__predictions=named.predict(x),
        contributions__contributions=shap,
        columns__predictions=named.predict(x),
        columns_contributions__contributions=shap,
        **{f"column__{name}": x[:, index] for index, name in enumerate(names)},
    )
    single = x.astype("float32")
    writer.version("named_float").joinpath("model.txt").write_bytes(
        (writer.directory / "named/1/model.txt").read_bytes()
    )
    writer.expect("named_float", single, serving_default__predictions=named.predict(single))

    for name, more in {
        "dart": {"boosting": "dart", "drop_rate": 0.5},
        "forest": {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7},
        "linear_trees": {"linear_tree": True},
        "poisson": {"objective": "poisson"},
        "quantile": {"objective": "quantile", "alpha": 0.9},
    }.items():
        model = lgb.train({**params, **more}, lgb.Dataset(x, y), 8)
        save(name, model)
        writer.expect(name, x, serving_default__predictions=model.predict(x))

    def squares(found: Any, data: Any) -> Any:
        return found - data.get_label(), np.ones(len(found))

    custom = lgb.train({**params, "objective": squares}, lgb.Dataset(x, y), 8)
    save("custom", custom)
    writer.expect("custom", x, serving_default__predictions=custom.predict(x))

    stopped = lgb.LGBMRegressor(n_estimators=200, learning_rate=0.5, n_jobs=1, verbosity=-1)
    stopped.fit(x[:300], y[:300], eval_set=[(x[300:], y[300:])], callbacks=[lgb.early_stopping(10)])
    assert stopped.best_iteration_ < stopped.n_estimators
    save("stopped", stopped)
    writer.expect("stopped", x, serving_default__predictions=stopped.predict(x))

    ranker = lgb.LGBMRanker(**few).fit(x, np.digitize(y, [80, 150, 220]), group=[34] * 13)
    save("ranking", ranker)
    writer.expect("ranking", x, serving_default__scores=ranker.predict(x))

    with_categories_of_lightgbm(writer, lgb, params)


def with_categories_of_lightgbm(writer: Writer, lgb: Any, params: dict[str, Any]) -> None:
    """A model with categories, which the library stores only for data frames: here they are added to its file."""
    features, y, names = categorical_data()
    data = lgb.Dataset(features, y, feature_name=names, categorical_feature=[0, 1])
    model = lgb.train({**params, "min_data_per_group": 5, "cat_smooth": 1}, data, 8)
    file = writer.version("categories") / "model.txt"
    model.save_model(file)
    text = file.read_text()
    before, _, _ = text.rpartition("pandas_categorical:")
    file.write_text(f"{before}pandas_categorical:{json.dumps([COLORS, [10, 20]])}\n")
    wanted = model.predict(features)
    writer.expect(
        "categories",
        features,
        **categorical_columns(features),
        serving_default__predictions=wanted,
        columns__predictions=wanted,
    )


if __name__ == "__main__":
    {"xgboost": of_xgboost, "lightgbm": of_lightgbm}[sys.argv[1]](Writer(Path(sys.argv[2])))
