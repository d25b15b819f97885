"""What is read from a compiled program's text."""

import pytest

from srgan_jax.benchmark import hlo

PROGRAM = """
ENTRY %main {
  %image = f32[16,24,24,64]{3,0,2,1:T(8,128)} parameter(0)
  %kernel = f32[3,3,64,256]{3,2,1,0:T(8,128)} parameter(1)
  %made = f32[16,24,24,256]{3,0,2,1:T(8,128)} convolution(%image, %kernel), window={size=3x3}, \
dim_labels=b01f_01io->b01f, metadata={op_name="jit(step)/up0_conv"}, \
backend_config={"estimated_cycles":"1500"}
  ROOT %copied = f32[16,24,24,256]{3,2,1,0:T(8,128)} copy(%made), \
metadata={op_name="jit(step)/copy"}, backend_config={"estimated_cycles":"500"}
}
""".replace("\\\n", "")


@pytest.mark.parametrize(
    ("type_", "told"),
    [
        ("f32[16,24,24,64]{3,0,2,1:T(8,128)}", "b01f[16, 24, 24, 64] bf x2.00"),
        ("f32[128,24,24,64]{0,3,2,1:T(8,128)}", "b01f[128, 24, 24, 64] fb x1.00"),
        ("f32[16,96,96,3]{0,3,2,1:T(4,128)}", "b01f[16, 96, 96, 3] fb x10.67"),
    ],
)
def test_layouts(type_, told):
    """Axes on sublanes and lanes, and what tiles of so many are filled up with."""
    assert hlo.layout("b01f", type_) == told


def test_convolutions_and_estimates():
    (line,) = hlo.convolutions(PROGRAM)
    assert line == (
        "b01f[16, 24, 24, 64] bf x2.00 | 01io[3, 3, 64, 256] io x1.00 |"
        " b01f[16, 24, 24, 256] bf x1.00"
    )
    assert hlo.estimates(PROGRAM) == {
        "convolution of jit(step)/up0_conv": 1500,
        "copy of jit(step)/copy": 500,
    }
