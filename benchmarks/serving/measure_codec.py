"""The JSON codec alone, against the fastest JSON parsers and printers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

from bench import Bench, Figure

# The yardstick is the fastest parser; the goal is a factor of its time.
NEAR_ENOUGH = 1.5


def measure_codec(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """JSON to and from tensors on one core, against simd-json and sonic-rs."""
    command = [str(bench.programs / "json_codec"), f"--rounds={15 * bench.effort.rounds}"]
    finished = subprocess.run(command, check=True, capture_output=True, timeout=300)
    rates: dict[str, float] = json.loads(finished.stdout)
    show(
        f"  reads {rates['decode']:.0f} MB/s of {rates['decode_bytes'] / 1e6:.1f} MB (wanted: 500, or the ratio"
        f" below); simd-json {rates['decode_simd_json']:.0f}, sonic-rs {rates['decode_sonic_rs']:.0f}"
    )
    show(
        f"  writes {rates['encode']:.0f} MB/s of {rates['encode_bytes'] / 1e6:.1f} MB (wanted: 300, or the ratio"
        f" below); sonic-rs {rates['encode_sonic_rs']:.0f}"
    )
    quickest = max(rates["decode_simd_json"], rates["decode_sonic_rs"])
    return [
        Figure(
            "JSON of a 224×224×3 image, MB/s read ÷ quickest parser's",
            rates["decode"] / quickest,
            "×",
            round(1 / NEAR_ENOUGH, 2),
            is_floor=True,
        ),
        Figure(
            "JSON of 1,000×1,000 floats, MB/s written ÷ sonic-rs's",
            rates["encode"] / rates["encode_sonic_rs"],
            "×",
            round(1 / NEAR_ENOUGH, 2),
            is_floor=True,
        ),
    ]
