"""Check what a quickstart left in its workdir: `python .ci/check_quickstart.py WORKDIR`."""

import json
import pathlib
import sys

import PIL.Image

workdir = pathlib.Path(sys.argv[1])
rows = json.loads((workdir / "results.json").read_text())["rows"]
psnr = {
    row["method"]: row["value"]
    for row in rows
    if (row["image"], row["convention"], row["metric"]) == ("mean", "modern", "psnr")
}
print(psnr)
assert psnr["srresnet"] > psnr["bicubic"] + 1.0, "SRResNet must clearly beat bicubic"
assert psnr["srgan"] > 20, "SRGAN is not a picture any more"
for name in ("srresnet.safetensors", "srgan.safetensors", "config.json", "metrics.jsonl"):
    assert (workdir / name).stat().st_size > 0, name
with PIL.Image.open(workdir / "panel.png") as panel:
    assert panel.width > 5 * 300, panel.size
