"""`--platform_config_file`: named platforms with options."""

from __future__ import annotations

from pathlib import Path

from support.server_process import ServerProcess

ADAPTER = "[type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig]"
PLATFORMS = f"""
platform_configs {{
  key: "own_threads"
  value {{ source_adapter_config {{ {ADAPTER} {{ legacy_config {{
    session_config {{
      intra_op_parallelism_threads: 1
      session_inter_op_thread_pool {{ num_threads: 1 }}
      session_inter_op_thread_pool {{ num_threads: 1 }}
    }}
    session_run_load_threadpool_index {{ value: 1 }}
  }} }} }} }}
}}
platform_configs {{
  key: "other_tags"
  value {{ source_adapter_config {{ {ADAPTER} {{ legacy_config {{ saved_model_tags: "other" }} }} }} }}
}}
"""


def test_each_model_is_loaded_as_its_platform_says(demo_models: Path, tmp_path: Path) -> None:
    platforms, models = tmp_path / "platforms.config", tmp_path / "models.config"
    platforms.write_text(PLATFORMS)
    base_path = demo_models / "half_plus_two_tf2"
    models.write_text(
        "model_config_list { "
        + " ".join(
            f"config {{ name: '{name}' base_path: '{base_path}' model_platform: '{name}' }}"
            for name in ("own_threads", "other_tags")
        )
        + " }"
    )
    flags = [
        f"--platform_config_file={platforms}",
        f"--model_config_file={models}",
        "--max_num_load_retries=0",
        "--enable_model_warmup=false",
    ]
    with ServerProcess(flags, directory=tmp_path) as server:
        server.wait_until_available("own_threads")
        assert server.predict("own_threads", {"inputs": [1.0]}).json() == {"outputs": [2.5]}
        reply = server.get("/v1/models/other_tags")
        assert "Could not find meta graph def matching supplied tags" in reply.body.decode()
        assert (
            "--enable_model_warmup has no effect: --platform_config_file replaces it" in server.log
        )


def test_a_model_of_a_platform_that_is_not_in_the_file_is_refused(
    demo_models: Path, tmp_path: Path
) -> None:
    platforms = tmp_path / "platforms.config"
    platforms.write_text(PLATFORMS)
    flags = [
        f"--platform_config_file={platforms}",
        "--model_name=m",
        f"--model_base_path={demo_models / 'half_plus_two'}",
    ]
    with ServerProcess(flags, directory=tmp_path) as server:
        assert server.wait() == 255
        assert "INVALID_ARGUMENT: Model m requests unsupported platform tensorflow" in server.log
