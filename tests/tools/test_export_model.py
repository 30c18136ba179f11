import pytest
import torch
from safetensors import safe_open

from rv_train.checkpoint import load_model_folder
from tests.tiny import flow_opts, make_tiny_checkpoint
from tools.export_model import main


@pytest.mark.parametrize("kind", ["text", "flow"])
def test_half_the_size_and_the_same_model_within_rounding(kind, tmp_path, capsys):
    run = make_tiny_checkpoint(tmp_path, **(flow_opts(DATA__PROPRIO=[]) if kind == "flow" else {}))
    main(["--model_path", str(run), "--dtype", "float16", "--out", str(tmp_path / "small")])
    assert "weights in float16" in capsys.readouterr().out
    files = list((tmp_path / "small/model").glob("*.safetensors"))
    assert len(files) == (2 if kind == "flow" else 1)
    for file in files:
        with safe_open(file, "pt") as stored:
            assert {stored.get_tensor(name).dtype for name in stored.keys()} == {torch.float16}  # noqa: SIM118
    before, after = (load_model_folder(path)[0].state_dict() for path in (run, tmp_path / "small"))
    for name, value in before.items():
        assert after[name].dtype == torch.float32
        torch.testing.assert_close(after[name], value, rtol=1e-3, atol=1e-6)
    with pytest.raises(SystemExit, match="2"):
        main(["--model_path", str(run), "--out", str(tmp_path / "small")])
