"""A pipeline of scikit-learn behind FastAPI, as tutorials write it: `PIPELINE=FILE uvicorn fastapi_app:app`."""

import os

import joblib
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

# Requests need no content type, as with the server.
app = FastAPI(strict_content_type=False)
pipeline = joblib.load(os.environ["PIPELINE"])


class Rows(BaseModel):
    """The body of a request."""

    instances: list[list[float]]


@app.post("/v1/models/{name}:predict")
async def predict(name: str, rows: Rows) -> dict[str, list[dict[str, object]]]:
    """Answer as the server does: the label and the probabilities of each row."""
    probabilities = pipeline.predict_proba(np.asarray(rows.instances, dtype=np.float32))
    labels = pipeline.classes_[probabilities.argmax(axis=1)]
    return {
        "predictions": [
            {"labels": label, "probabilities": row}
            for label, row in zip(labels.tolist(), probabilities.tolist(), strict=True)
        ]
    }
